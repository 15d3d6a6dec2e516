-- Purpose: have dead events of a trigger sent again.
-- Caller: triggers::Catalogue::redeliver_dead. Locks: new rows. Index: attempt_dead, event_trigger, deferred_pkey.
select walhook.redeliver_dead($1, $2::text::timestamptz, $3::text::timestamptz, $4, $5)
