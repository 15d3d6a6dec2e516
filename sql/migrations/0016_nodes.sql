-- Several nodes: who lives, and who delivers which lane.

-- A node that captures or delivers, written once a second by itself. Unlogged: it costs no WAL, and after a crash of
-- the server, which empties it, no session is left that a row could speak of.
create unlogged table walhook.node (
    id                   uuid primary key,
    host                 text not null,
    process_id           integer not null,
    timeout_milliseconds integer not null,       -- silent for longer than this, it is taken for dead
    delivers             boolean not null,
    leaving              boolean not null default false,     -- it is to have no lanes any more
    started_at           timestamptz not null default clock_timestamp(),
    heartbeat_at         timestamptz not null default clock_timestamp()
) with (fillfactor = 20);

-- Its sessions that own something: lanes, or the log of a source. Whoever takes the node for dead ends them.
create unlogged table walhook.node_session (
    node_id       uuid not null,
    purpose       text not null,
    backend_pid   integer not null,
    backend_start timestamptz not null,
    primary key (node_id, purpose)
);

-- For operators: the owner of each lane, which is who holds its advisory lock; nobody for a moment when it changes
-- hands.
create view walhook.lanes as
select l.lane, n.id as node, n.host, n.process_id, case when k.pid is not null then l.taken_at end as since,
       k.pid as backend_pid
from walhook.lane l
left join pg_locks k
  on k.locktype = 'advisory' and k.granted and k.objsubid = 2 and k.objid::bigint = l.lane
 and k.classid::bigint = (hashtext('walhook lane')::bigint & 4294967295)
 and k.database = (select oid from pg_database where datname = current_database())
left join walhook.node_session s on s.backend_pid = k.pid and s.purpose = 'lanes'
left join walhook.node n on n.id = s.node_id;
