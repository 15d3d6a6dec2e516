-- Purpose: which events after a cursor were attempted. Any attempt means that the event is done or deferred, because
--          both are recorded together.
-- Caller: queue::backlog::attempted_after. Locks: none. Index: attempt_event.
select event_seq from walhook.attempt where trigger_id = $1 and source_id = $2 and event_seq > $3
