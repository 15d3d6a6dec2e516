-- Purpose: deferred events that were delivered or are dead wait no more.
-- Caller: queue::outcome::OutcomeWriter. Locks: the rows. Index: deferred_pkey.
delete from walhook.deferred where event_id = any($1)
