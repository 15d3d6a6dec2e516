-- Purpose: the live triggers that have events of these days neither attempted nor deferred, or still to be replayed.
--          The cursors say it at once for the usual trigger; where they are behind, attempts and what is deferred do.
-- Caller: queue::retention::replace. Locks: none. Index: cursor_pkey, event_trigger, attempt_event, deferred_pkey,
--         replay_open.
select t.name
from walhook.trigger t
join walhook.lowest_cursor lowest on lowest.trigger_id = t.id
where t.deleted_at is null
  and (exists (
      select from walhook.event e
      left join walhook.cursor c
        on c.trigger_id = e.trigger_id and c.source_id = e.source_id and c.lane = e.lane
      where e.trigger_id = t.id and e.source_id = t.source_id and e.seq > lowest.seq
        and e.committed_at >= $1 and e.committed_at < $2 and e.seq > coalesce(c.seq, 0)
        and not exists (select from walhook.deferred d where d.event_id = e.id)
        and not exists (
            select from walhook.attempt a
            where a.trigger_id = e.trigger_id and a.source_id = e.source_id and a.event_seq = e.seq
        )
  ) or exists (
      select from walhook.replay r
      join walhook.event e
        on e.trigger_id = r.trigger_id and e.source_id = r.source_id and e.seq > r.done_to and e.seq <= r.to_seq
      where r.state = 'running' and r.trigger_id = t.id and e.committed_at >= $1 and e.committed_at < $2
  ))
order by t.name
