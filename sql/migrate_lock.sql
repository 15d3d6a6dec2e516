-- Purpose: let one node migrate at a time.
-- Caller: postgres::migrate. Locks: session advisory lock (walhook, 1). Index: none.
select pg_advisory_lock(hashtext('walhook'), 1)
