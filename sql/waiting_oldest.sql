-- Purpose: how long the oldest event of each live trigger that could be sent by now has waited, in seconds; 0 where
--          none does. In the log that is the first one after the cursors, which are some seconds behind; of the
--          deferred ones it counts from when they were due.
-- Caller: queue::waiting. Locks: none. Index: cursor_pkey, event_trigger (one probe a partition), deferred_due.
select t.definition ->> 'source' as source, t.name,
       greatest(extract(epoch from clock_timestamp() - least(logged.committed_at, due.due_at)), 0)::float8 as seconds
from walhook.trigger t
join walhook.lowest_cursor lowest on lowest.trigger_id = t.id
left join lateral (
    select e.committed_at
    from walhook.event e
    left join walhook.cursor c
      on c.trigger_id = e.trigger_id and c.source_id = e.source_id and c.lane = e.lane
    where e.trigger_id = t.id and e.source_id = t.source_id and e.seq > lowest.seq and e.seq > coalesce(c.seq, 0)
      and e.deliver_at is null
    order by e.seq
    limit 1
) logged on true
left join lateral (
    select d.due_at
    from walhook.deferred d
    where d.trigger_id = t.id and d.due_at <= clock_timestamp() and d.reason not in ('parked', 'held')
    order by d.due_at
    limit 1
) due on true
where t.deleted_at is null
