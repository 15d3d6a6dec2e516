-- Purpose: rows whose first event is done: the next one that is parked there becomes due. Says which rows still have
--          events that wait, in the freed one's lane or in our lanes ($4): after its ordering was replaced, all events
--          of a trigger can be one row in several lanes, and nobody here is told what becomes of those of other nodes.
--          Run twice it does no more than once.
-- Caller: queue::outcome::OutcomeWriter. Locks: the rows. Index: deferred_row, one probe a row.
with head as (
    select freed.trigger_id, freed.row_hash, first.event_id, first.reason
    from (select distinct * from unnest($1::uuid[], $2::bigint[], $3::smallint[]) f (trigger_id, row_hash, lane)) freed
    cross join lateral (
        select d.event_id, d.reason
        from walhook.deferred d
        where d.trigger_id = freed.trigger_id and d.row_hash = freed.row_hash
          and (d.lane = freed.lane or d.lane = any($4::smallint[]))
        order by d.seq
        limit 1
    ) first
), released as (
    update walhook.deferred d set due_at = now(), reason = 'released'
    from head
    where d.event_id = head.event_id and head.reason = 'parked'
)
select trigger_id, row_hash from head
