-- Purpose: drop what waits for triggers that ended.
-- Caller: queue::catalogue::adopt. Locks: the rows. Index: deferred_due.
delete from walhook.deferred where trigger_id = any($1)
