-- Purpose: events for a later time wait in `deferred`, in the transaction of their append. Nodes that deliver are told
--          of those that come due before they look by themselves.
-- Caller: queue::log::LogWriter. Locks: new rows. Index: trigger_pkey; deferred_pkey, deferred_due are kept.
with scheduled as (
    insert into walhook.deferred (event_id, trigger_id, source_id, seq, committed_at, lane, due_at, reason)
    select s.event_id, s.trigger_id, $1::smallint, s.seq, s.committed_at, s.lane, s.due_at, 'manual'
    from unnest($2::uuid[], $3::uuid[], $4::bigint[], $5::timestamptz[], $6::smallint[], $7::timestamptz[])
         s (event_id, trigger_id, seq, committed_at, lane, due_at)
    join walhook.trigger t on t.id = s.trigger_id and t.deleted_at is null
    returning due_at
)
select pg_notify('walhook', 'deferred') from scheduled having min(due_at) < now() + interval '15 seconds'
