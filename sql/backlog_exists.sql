-- Purpose: which of these triggers have events in these stretches of the log, in whichever lanes: one question for all
--          of them instead of a read of each.
-- Caller: queue::backlog::triggers_with_events. Locks: none. Index: event_trigger, a probe a trigger and partition.
select stretch.trigger_id
from unnest($1::uuid[], $2::smallint[], $3::bigint[], $4::bigint[]) stretch (trigger_id, source_id, after, up_to)
cross join lateral (
    select e.seq
    from walhook.event e
    where e.trigger_id = stretch.trigger_id and e.source_id = stretch.source_id
      and e.seq > stretch.after and e.seq <= stretch.up_to
    order by e.seq
    limit 1
) first
