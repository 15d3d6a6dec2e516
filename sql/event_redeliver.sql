-- Purpose: start an event's attempts anew. One that waits keeps its time, as in Hasura; one that was never attempted
--          keeps its place; any other is due now, and holds up no later event unless it already does. The event is
--          looked at in the same statement, so that its partition cannot be dropped between the two.
-- Caller: triggers::Catalogue::redeliver. Locks: the row. Index: event_trigger, deferred_pkey, deferred_due.
insert into walhook.deferred as known
    (event_id, trigger_id, source_id, seq, committed_at, lane, number, due_at, reason)
select $1::uuid, $2, $3, $4, $5, $6::smallint, 0, now(), 'redelivery'
where exists (select from walhook.event e
              where e.committed_at = $5 and e.trigger_id = $2 and e.source_id = $3 and e.seq = $4)
on conflict (event_id) do update
set number = 0, reason = 'redelivery', due_at = case when known.reason = 'held' then now() else known.due_at end
where known.reason not in ('parked', 'released', 'manual')
