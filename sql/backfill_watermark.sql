-- Purpose: mark the place in the WAL where a chunk's rows, which were read before, come in.
-- Caller: capture::backfill::reader. Locks: none. Index: none.
select pg_logical_emit_message(true, 'walhook.backfill', $1::uuid::text)::text
