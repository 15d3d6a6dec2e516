-- Purpose: tell all nodes something that they would find by their slow looks otherwise.
-- Caller: queue::notice::tell. Locks: none. Index: none.
select pg_notify('walhook', $1)
