-- Purpose: let the next node look at the schema.
-- Caller: postgres::unlock_setup. Locks: gives back session advisory lock (walhook, 1). Index: none.
select pg_advisory_unlock(hashtext('walhook'), 1)
