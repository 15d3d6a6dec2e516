-- Purpose: name a session that is to own lanes or a source, before it does, so that others can end it; or another one
--          for heartbeats than the node was registered with. Nothing is written where the node is not registered.
-- Caller: queue::node::own_session. Locks: one row. Index: node_pkey, node_session_pkey.
insert into walhook.node_session (node_id, purpose, backend_pid, backend_start)
select $1, $2, own.pid, own.backend_start
from pg_stat_get_activity(pg_backend_pid()) own
where exists (select from walhook.node where id = $1)
on conflict (node_id, purpose) do update
set backend_pid = excluded.backend_pid, backend_start = excluded.backend_start
