-- Purpose: drop what waits for triggers that ended. What others have locked, who redelivers it in a transaction that is
--          open still, is left: capture, which calls this too, must not wait for that. It goes with the next start.
-- Caller: queue::catalogue::adopt. Locks: the rows. Index: deferred_due, deferred_pkey.
delete from walhook.deferred
where event_id in (select event_id from walhook.deferred where trigger_id = any($1) for update skip locked)
