-- Purpose: let the next node look after old partitions.
-- Caller: queue::retention::Keeper. Locks: gives up the advisory lock (walhook, 4). Index: none.
select pg_advisory_unlock(hashtext('walhook'), 4)
