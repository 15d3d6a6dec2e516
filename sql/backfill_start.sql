-- Purpose: show that a backfill is being worked on.
-- Caller: queue::backfill::start_backfill. Locks: the row. Index: backfill_pkey.
update walhook.backfill set state = 'running', started_at = coalesce(started_at, now())
where id = $1 and state = 'waiting'
