-- Purpose: drop the pauses of triggers that ended; not where somebody is about to resume one, as nobody waits for that.
-- Caller: queue::catalogue::adopt. Locks: the rows. Index: trigger_pause_pkey.
delete from walhook.trigger_pause
where trigger_id in (select trigger_id from walhook.trigger_pause where trigger_id = any($1) for update skip locked)
