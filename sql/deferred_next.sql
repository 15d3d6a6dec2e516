-- Purpose: when the next deferred event of these triggers, in our lanes, is due. One whose event is not in the log any
--          more, as its partition was dropped by hand, never comes and would be looked for again and again.
-- Caller: queue::deferred::next_due. Locks: none. Index: deferred_due, then event_trigger in the event's partition, one
--         probe a trigger.
select min(next.due_at)
from unnest($1::uuid[]) wanted (trigger_id)
cross join lateral (
    select due_at from walhook.deferred d
    where d.trigger_id = wanted.trigger_id and event_id <> all($2::uuid[]) and due_at < 'infinity'
      and reason not in ('parked', 'held') and lane = any($3::smallint[])
      and exists (
          select from walhook.event e
          where e.committed_at = d.committed_at and e.trigger_id = d.trigger_id and e.source_id = d.source_id
            and e.seq = d.seq
      )
    order by due_at
    limit 1
) next
