-- Purpose: how much WAL a slot keeps, how much it may, and how much is not acknowledged.
-- Caller: capture::health. Locks: none. Index: none (shared memory).
select s.wal_status, s.confirmed_flush_lsn,
       pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint as retained,
       (select nullif(setting::bigint, -1) * 1048576 from pg_settings where name = 'max_slot_wal_keep_size') as limit,
       pg_wal_lsn_diff(pg_current_wal_lsn(), s.confirmed_flush_lsn)::bigint as lag
from pg_replication_slots s
where s.slot_name = $1
