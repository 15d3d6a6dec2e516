-- Purpose: a node ends in order.
-- Caller: queue::node::Registry. Locks: the rows. Index: node_pkey, node_session_pkey.
with sessions as (delete from walhook.node_session where node_id = $1)
delete from walhook.node where id = $1
