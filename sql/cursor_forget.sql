-- Purpose: drop the cursors of triggers that ended.
-- Caller: queue::catalogue::adopt. Locks: the rows. Index: cursor_pkey.
delete from walhook.cursor where trigger_id = any($1)
