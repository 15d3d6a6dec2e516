-- Purpose: lock the rows in which these events wait, and tell those that others have locked: who redelivers or skips
--          one in a transaction that is open still. They are not waited for. And those that are redelivered, with the
--          version of the row: where another one was fetched, somebody asked for it since.
-- Caller: queue::outcome::OutcomeWriter. Locks: the other rows. Index: deferred_pkey.
with free as materialized (
    select event_id, reason, xmin::text::bigint as version
    from walhook.deferred where event_id = any($1) for update skip locked
)
select d.event_id, free.version
from walhook.deferred d
left join free on free.event_id = d.event_id
where d.event_id = any($1) and (free.event_id is null or free.reason = 'redelivery')
