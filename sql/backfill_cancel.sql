-- Purpose: let a backfill end before its next chunk. What is in the log stays there.
-- Caller: triggers::Catalogue::cancel_backfill. Locks: the row. Index: backfill_pkey.
update walhook.backfill set state = 'cancelled', ended_at = now()
where id = $1 and source_id = $2 and state in ('waiting', 'running')
