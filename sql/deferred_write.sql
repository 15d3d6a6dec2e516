-- Purpose: events whose attempt failed wait for their next one. Not for triggers that were deleted meanwhile.
-- Caller: queue::outcome::OutcomeWriter. Locks: the rows. Index: deferred_pkey.
insert into walhook.deferred (event_id, trigger_id, source_id, seq, committed_at, lane, number, due_at, reason)
select d.event_id, d.trigger_id, d.source_id, d.seq, d.committed_at, d.lane, d.number, d.due_at, 'retry'
from unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::bigint[], $5::timestamptz[], $6::smallint[], $7::int[],
            $8::timestamptz[])
     d (event_id, trigger_id, source_id, seq, committed_at, lane, number, due_at)
join walhook.trigger t on t.id = d.trigger_id and t.deleted_at is null
on conflict (event_id) do update set number = excluded.number, due_at = excluded.due_at, reason = excluded.reason
