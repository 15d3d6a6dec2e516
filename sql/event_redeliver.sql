-- Purpose: start an event's attempts anew. One that waits keeps its time, as in Hasura; any other is due now.
-- Caller: triggers::Catalogue::redeliver. Locks: the row. Index: deferred_pkey, deferred_due.
insert into walhook.deferred (event_id, trigger_id, source_id, seq, committed_at, lane, number, due_at, reason)
values ($1, $2, $3, $4, $5, $6, 0, now(), 'redelivery')
on conflict (event_id) do update set number = 0, reason = 'redelivery'
