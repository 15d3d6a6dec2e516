-- Purpose: a node begins, or was taken for dead and begins anew. Its session for heartbeats is noted with it, so that
--          there is always one that tells whether its process lives.
-- Caller: queue::node::Registry. Locks: the rows. Index: node_pkey, node_session_pkey.
with node as (
    insert into walhook.node (id, host, process_id, timeout_milliseconds, delivers) values ($1, $2, $3, $4, $5)
    on conflict (id) do update set heartbeat_at = clock_timestamp()
)
insert into walhook.node_session (node_id, purpose, backend_pid, backend_start)
select $1, 'heartbeat', own.pid, own.backend_start
from pg_stat_get_activity(pg_backend_pid()) own
on conflict (node_id, purpose) do update
set backend_pid = excluded.backend_pid, backend_start = excluded.backend_start
