-- Purpose: a node begins, or was taken for dead and begins anew.
-- Caller: queue::node::Registry. Locks: one row. Index: node_pkey.
insert into walhook.node (id, host, process_id, timeout_milliseconds, delivers) values ($1, $2, $3, $4, $5)
on conflict (id) do update set heartbeat_at = clock_timestamp()
