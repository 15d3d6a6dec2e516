-- Purpose: name a session that is to own lanes or a source, before it does, so that others can end it; or another one
--          for heartbeats than the node was registered with. Nothing is written where the node is not registered; else
--          its registration is told.
--          The one that the node had before is ended: the server does not see that its process gave it up while it
--          waits for a lock, and it would own what this one is to own. One that waits for a standby is left: its commit
--          would count without.
-- Caller: queue::node::own_session. Locks: one row. Index: node_pkey, node_session_pkey.
with given_up as (
    select session.pid
    from walhook.node_session before
    join pg_stat_activity session on session.pid = before.backend_pid and session.backend_start = before.backend_start
    where before.node_id = $1 and before.purpose = $2 and session.pid <> pg_backend_pid()
      and session.wait_event is distinct from 'SyncRep'
)
insert into walhook.node_session (node_id, purpose, backend_pid, backend_start)
select $1, $2, own.pid, own.backend_start
from pg_stat_get_activity(pg_backend_pid()) own
where exists (select from walhook.node where id = $1)
  and (select count(pg_terminate_backend(pid, 1000)) from given_up) >= 0
on conflict (node_id, purpose) do update
set backend_pid = excluded.backend_pid, backend_start = excluded.backend_start
returning (select started_at from walhook.node where id = $1)
