-- Purpose: note in `progress` how far each source's log goes with the events of these days, before they are dropped:
--          the last seq, so that none is given twice, and a progress that is not behind it.
-- Caller: queue::retention::replace. Locks: rows of progress that move. Index: event_trigger, a probe a trigger and
--         partition.
with reached as (
    select t.source_id, max(last.seq) as seq
    from walhook.trigger t
    cross join lateral (
        select e.seq from walhook.event e
        where e.trigger_id = t.id and e.source_id = t.source_id and e.committed_at >= $1 and e.committed_at < $2
        order by e.seq desc
        limit 1
    ) last
    group by t.source_id
), ends as (
    select p.source_id, max(last.progress_lsn) filter (where last.seq > p.after_seq) as lsn
    from walhook.progress p
    join reached r on r.source_id = p.source_id and r.seq > p.after_seq
    join walhook.trigger t on t.source_id = p.source_id
    cross join lateral (
        select e.seq, e.progress_lsn from walhook.event e
        where e.trigger_id = t.id and e.source_id = t.source_id
        order by e.seq desc
        limit 1
    ) last
    group by p.source_id
)
update walhook.progress p
set lsn = greatest(p.lsn, ends.lsn), after_seq = reached.seq, updated_at = now()
from reached
join ends on ends.source_id = reached.source_id
where p.source_id = reached.source_id and p.after_seq < reached.seq
