-- Purpose: append to the attempt log.
-- Caller: queue::outcome::OutcomeWriter. Locks: none beyond new rows. Index: attempt_event is kept.
copy walhook.attempt (event_seq, started_at, duration_micros, number, source_id, status, event_id, trigger_id, verdict,
                      response, error) from stdin (format binary)
