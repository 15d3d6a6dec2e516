-- Purpose: when the next deferred event of these triggers, in our lanes, is due.
-- Caller: queue::deferred::next_due. Locks: none. Index: deferred_due, one probe a trigger.
select min(next.due_at)
from unnest($1::uuid[]) wanted (trigger_id)
cross join lateral (
    select due_at from walhook.deferred
    where deferred.trigger_id = wanted.trigger_id and event_id <> all($2::uuid[]) and due_at < 'infinity'
      and reason not in ('parked', 'held') and lane = any($3::smallint[])
    order by due_at
    limit 1
) next
