-- Purpose: the state of a replication slot.
-- Caller: capture::slot. Locks: none. Index: none (shared memory).
select plugin::text, database::text = current_database() as here, confirmed_flush_lsn, wal_status, active_pid
from pg_replication_slots
where slot_name = $1
