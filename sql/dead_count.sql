-- Purpose: how many dead events of a trigger a bulk redelivery would send again.
-- Caller: triggers::Catalogue::redeliver_dead. Locks: none. Index: attempt_dead, attempt_event, deferred_pkey.
select count(*) from walhook.dead_events($1, $2::text::timestamptz, $3::text::timestamptz, $4, $5)
