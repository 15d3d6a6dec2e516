-- Purpose: drop the pauses of triggers that ended.
-- Caller: queue::catalogue::adopt. Locks: the rows. Index: trigger_pause_pkey.
delete from walhook.trigger_pause where trigger_id = any($1)
