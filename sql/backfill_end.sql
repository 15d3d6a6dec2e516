-- Purpose: end a backfill that was not cancelled meanwhile.
-- Caller: queue::backfill::end_backfill. Locks: the row. Index: backfill_pkey.
update walhook.backfill set state = $2, error = $3, ended_at = now()
where id = $1 and state in ('waiting', 'running')
