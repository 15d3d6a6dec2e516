-- Purpose: where an event stands. $2 and $3 are the millisecond in its id: they choose the partition and its few pages.
-- Caller: triggers::Catalogue redeliver and skip. Locks: none. Index: event_time, attempt_event, deferred_pkey.
select e.id, e.trigger_id, e.source_id, e.seq, e.committed_at, e.lane,
       t.deleted_at is not null as deleted,
       exists (select from walhook.deferred d where d.event_id = e.id) as deferred,
       exists (select from walhook.attempt a
               where a.trigger_id = e.trigger_id and a.source_id = e.source_id and a.event_seq = e.seq) as attempted
from walhook.event e
join walhook.trigger t on t.id = e.trigger_id and t.source_id = $4
where e.committed_at >= $2 and e.committed_at < $3 and e.id = $1
