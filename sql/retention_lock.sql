-- Purpose: one node at a time drops old partitions. Tried, not waited for.
-- Caller: queue::retention::retain. Locks: session advisory lock (walhook, 4). Index: none.
select pg_try_advisory_lock(hashtext('walhook'), 4)
