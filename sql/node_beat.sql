-- Purpose: say that a node lives, and see all that are registered, in the order in which they started; its own row as
--          it was before. How long a node was silent is measured by the server's clock alone, which is told too.
--          One that was buried meanwhile does not see itself, though the snapshot does.
-- Caller: queue::node::Registry, once a second. Locks: one row. Index: node_pkey; the table has a row a node.
with beat as (
    update walhook.node set heartbeat_at = clock_timestamp(), leaving = $2 where id = $1 returning id
)
select id, extract(epoch from statement_timestamp() - heartbeat_at)::float8 as silent, timeout_milliseconds, delivers,
       leaving, clock_timestamp() as server_time, started_at
from walhook.node
where id <> $1 or exists (select from beat)
order by started_at, id
