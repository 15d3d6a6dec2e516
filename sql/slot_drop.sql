-- Purpose: drop a slot whose WAL is gone, after the operator accepted the gap.
-- Caller: capture::slot. Locks: the slot. Index: none.
select pg_drop_replication_slot($1)
