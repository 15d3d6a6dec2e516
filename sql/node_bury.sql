-- Purpose: take nodes for dead that were silent for too long, and end the sessions that own their lanes and sources: a
--          node that is paused or cut off still has them here. Without the right to end them, nothing is changed.
-- Caller: queue::node::Registry. Locks: the rows. Index: node_pkey, node_session_pkey.
with dead as (
    delete from walhook.node
    where id <> $1 and heartbeat_at < clock_timestamp() - timeout_milliseconds * interval '1 millisecond'
    returning id, host, process_id
),
owning as (
    delete from walhook.node_session s using dead where s.node_id = dead.id
    returning s.node_id, s.purpose, s.backend_pid, s.backend_start
)
select dead.host, dead.process_id, count(*) filter (where pg_terminate_backend(session.pid)) as ended
from dead
left join owning on owning.node_id = dead.id
left join pg_stat_activity session
  on session.pid = owning.backend_pid and session.backend_start = owning.backend_start
 and owning.purpose <> 'heartbeat'
group by dead.id, dead.host, dead.process_id
