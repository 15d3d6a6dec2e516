-- Purpose: make the slot; it starts where every transaction that runs now has ended.
-- Caller: capture::slot. Locks: waits for running transactions. Index: none.
select lsn from pg_create_logical_replication_slot($1, 'pgoutput')
