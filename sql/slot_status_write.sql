-- Purpose: what the capturing node saw of the slot.
-- Caller: queue::slot_status. Locks: one row. Index: slot_status_pkey.
insert into walhook.slot_status
    (source_id, timeline, checked_at, wal_status, confirmed_lsn, retained_bytes, max_retained_bytes, warning)
values ($1, $2, now(), $3, $4, $5, $6, $7)
on conflict (source_id) do update
set timeline = excluded.timeline, checked_at = excluded.checked_at, wal_status = excluded.wal_status,
    confirmed_lsn = excluded.confirmed_lsn, retained_bytes = excluded.retained_bytes,
    max_retained_bytes = excluded.max_retained_bytes, warning = excluded.warning
