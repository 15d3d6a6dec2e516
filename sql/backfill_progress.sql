-- Purpose: how far backfills are; no row of one before its first chunk.
-- Caller: queue::backfill::advanced. Locks: none. Index: backfill_progress_pkey.
select backfill_id, last_key, looked_at, sent, superseded from walhook.backfill_progress where backfill_id = any($1)
