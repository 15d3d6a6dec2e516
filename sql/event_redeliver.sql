-- Purpose: start an event's attempts anew.
-- Caller: triggers::Catalogue::redeliver. Locks: the row. Index: event_time, attempt_event, deferred_pkey.
select walhook.redeliver($1)
