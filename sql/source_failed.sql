-- Purpose: say in SQL why a source is not captured.
-- Caller: queue::source::note_failure. Locks: one row. Index: source_failure_pkey.
insert into walhook.source_failure (source, reason) values ($1, $2)
on conflict (source) do update set reason = excluded.reason, failed_at = now()
where source_failure.reason <> excluded.reason
