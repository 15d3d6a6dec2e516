-- Purpose: note how far a backfill is, in the transaction that appends the events of its rows.
-- Caller: queue::log::LogWriter. Locks: the row. Index: backfill_progress_pkey.
insert into walhook.backfill_progress as progress (backfill_id, last_key, looked_at, sent, superseded)
values ($1, $2, $3, $4, $5)
on conflict (backfill_id) do update
set last_key = excluded.last_key, looked_at = progress.looked_at + excluded.looked_at,
    sent = progress.sent + excluded.sent, superseded = progress.superseded + excluded.superseded, updated_at = now()
