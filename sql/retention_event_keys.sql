-- Purpose: note the events of these days that must outlive their partition: those that wait, and those that died at $3
--          or later, whenever they committed.
-- Caller: queue::retention::replace. Locks: none. Index: deferred_partition, attempt_dead, event_trigger.
with failed as materialized (
    select distinct e.trigger_id, e.source_id, e.seq
    from walhook.attempt a
    join walhook.event e on e.trigger_id = a.trigger_id and e.source_id = a.source_id and e.seq = a.event_seq
    where a.verdict = 'dead' and a.started_at >= greatest($1::timestamptz - interval '1 day', $3)
      and e.committed_at >= $1 and e.committed_at < $2
)
insert into walhook.kept (trigger_id, source_id, seq)
select d.trigger_id, d.source_id, d.seq from walhook.deferred d where d.committed_at >= $1 and d.committed_at < $2
union
select f.trigger_id, f.source_id, f.seq
from failed f
join walhook.trigger t on t.id = f.trigger_id and t.deleted_at is null
cross join lateral (
    select a.verdict from walhook.attempt a
    where a.trigger_id = f.trigger_id and a.source_id = f.source_id and a.event_seq = f.seq
    order by a.started_at desc
    limit 1
) last
where last.verdict = 'dead'
