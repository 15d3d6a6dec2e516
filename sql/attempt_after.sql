-- Purpose: which events after a cursor are dealt with: attempted, so that they are done or deferred, because both are
--          recorded together; or parked behind their row without an attempt.
-- Caller: queue::backlog::dealt_with_after. Locks: none. Index: attempt_event, deferred_row.
select event_seq from walhook.attempt where trigger_id = $1 and source_id = $2 and event_seq > $3
union all
select seq from walhook.deferred where trigger_id = $1 and source_id = $2 and seq > $3 and row_hash is not null
