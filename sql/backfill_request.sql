-- Purpose: ask for a backfill. The logical message tells the node that captures, wherever it runs, once this commits.
-- Caller: triggers::Catalogue::start_backfill. Locks: none. Index: backfill_pkey, backfill_open.
with requested as (
    insert into walhook.backfill (id, source_id, trigger_id, condition, key_columns, estimated_rows)
    values ($1, $2, $3, $4, $5, $6)
    returning id
)
select pg_logical_emit_message(true, 'walhook.backfill', id::text)::text from requested
