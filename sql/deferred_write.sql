-- Purpose: events that are not done wait: for their next attempt, behind an earlier event of their row, or, dead, for
--          somebody to decide. Without a time they wait for something else. Those of a trigger that was deleted
--          meanwhile wait no more: a node that has not heard of that yet would find them due again at once. And none
--          waits for a decision where the definition does not ask for it any more. One that was skipped meanwhile
--          stays so, and none that waits already is parked: nobody would release it.
-- Caller: queue::outcome::OutcomeWriter. Locks: the rows. Index: deferred_pkey; deferred_due, deferred_row are kept.
with ended as (
    delete from walhook.deferred d
    using walhook.trigger t
    where d.event_id = any($1::uuid[]) and t.id = d.trigger_id and t.deleted_at is not null
)
insert into walhook.deferred
    (event_id, trigger_id, source_id, seq, committed_at, lane, number, due_at, reason, row_hash)
select d.event_id, d.trigger_id, d.source_id, d.seq, d.committed_at, d.lane, d.number,
       case when p.passed_on then now() else coalesce(d.due_at, 'infinity') end,
       case when p.passed_on then 'skipped' else d.reason end, d.row_hash
from unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::bigint[], $5::timestamptz[], $6::smallint[], $7::int[],
            $8::timestamptz[], $9::text[], $10::bigint[])
     d (event_id, trigger_id, source_id, seq, committed_at, lane, number, due_at, reason, row_hash)
join walhook.trigger t on t.id = d.trigger_id and t.deleted_at is null
cross join lateral (
    select d.reason = 'held' and t.definition ->> 'on_dead' is distinct from 'hold' as passed_on
) p
on conflict (event_id) do update
set number = excluded.number, due_at = excluded.due_at, reason = excluded.reason,
    row_hash = coalesce(excluded.row_hash, deferred.row_hash)
where deferred.reason <> 'skipped' and excluded.reason <> 'parked'
