-- Purpose: let one node at a time migrate and make publication and slot.
-- Caller: postgres::lock_setup. Locks: session advisory lock (walhook, 1). Index: none.
select pg_advisory_lock(hashtext('walhook'), 1)
