-- Purpose: one node at a time drops old partitions. Tried, not waited for.
-- Caller: queue::retention::Keeper. Locks: session advisory lock (walhook, 4). Index: none.
select pg_try_advisory_lock(hashtext('walhook'), 4)
