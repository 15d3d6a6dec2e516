-- Purpose: end the stream that reads a slot, where it is that of a certain node: $2 is how its name begins.
-- Caller: capture::take_over, which owns the source. Locks: none. Index: none (shared memory).
select pg_terminate_backend(reader.pid)
from pg_replication_slots slot
join pg_stat_activity reader on reader.pid = slot.active_pid
where slot.slot_name = $1 and starts_with(reader.application_name, $2)
