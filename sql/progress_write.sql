-- Purpose: durable progress where there were no events to carry it. Never goes back.
-- Caller: queue::source::write_progress: when idle, and for an append of definitions only.
-- Locks: one row. Index: progress_pkey.
insert into walhook.progress (source_id, lsn) values ($1, $2)
on conflict (source_id) do update set lsn = excluded.lsn, updated_at = now() where progress.lsn < excluded.lsn
