-- Purpose: take nodes of this machine for dead at once that have no session left: their process was killed, and the one
--          that is started in its place need not wait until they were silent for long. One that only lost its
--          connections for a moment registers anew.
-- Caller: queue::node::Registry, when a process registers first. Locks: the rows. Index: node_session_pkey; there is a
--         row a node in `node`.
with dead as (
    delete from walhook.node n
    where n.host = $1
      and exists (select from walhook.node_session s where s.node_id = n.id)
      and not exists (
          select from walhook.node_session s
          join pg_stat_activity a on a.pid = s.backend_pid and coalesce(a.backend_start = s.backend_start, true)
          where s.node_id = n.id
      )
    returning id, process_id
),
sessions as (
    delete from walhook.node_session s using dead where s.node_id = dead.id
)
select process_id from dead
