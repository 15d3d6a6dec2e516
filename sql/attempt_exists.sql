-- Purpose: whether a batch of attempts was recorded though its commit's answer was lost.
-- Caller: queue::outcome::OutcomeWriter. Locks: none. Index: attempt_event.
select exists (
    select from walhook.attempt where trigger_id = $1 and source_id = $2 and event_seq = $3 and started_at = $4
)
