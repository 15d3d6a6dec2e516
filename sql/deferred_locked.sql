-- Purpose: lock the rows in which these events wait, and tell those that others have locked: who redelivers or skips
--          one in a transaction that is open still. They are not waited for.
-- Caller: queue::outcome::OutcomeWriter. Locks: the other rows. Index: deferred_pkey.
with free as materialized (
    select event_id from walhook.deferred where event_id = any($1) for update skip locked
)
select event_id from walhook.deferred where event_id = any($1) and event_id not in (select event_id from free)
