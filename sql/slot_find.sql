-- Purpose: the state of a replication slot.
-- Caller: capture::slot. Locks: none. Index: none (shared memory).
select plugin::text, database::text = current_database() as here, confirmed_flush_lsn, wal_status,
       -- Versions before 17 do not have it.
       to_jsonb(s) ->> 'invalidation_reason' as invalidation_reason
from pg_replication_slots s
where slot_name = $1
