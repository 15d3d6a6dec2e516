-- Purpose: record that WAL was lost, once for one loss.
-- Caller: queue::source::record_gap. Locks: a new row. Index: none (a handful of rows).
insert into walhook.gap (source_id, from_lsn, to_lsn, reason)
select $1, $2, $3, $4
where not exists (select from walhook.gap where source_id = $1 and accepted_at is null and reason = $4)
