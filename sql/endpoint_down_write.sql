-- Purpose: which triggers' endpoints are down as this node sees it, in place of what it said before; and away with what
--          nodes left behind that are gone.
-- Caller: queue::endpoint::write_endpoints_down, when it changed. Locks: the rows. Index: endpoint_down_pkey.
with down as (
    select * from unnest($2::uuid[], $3::text[], $4::timestamptz[]) as down (trigger_id, reason, since)
), up as (
    delete from walhook.endpoint_down d
    where d.node = $1 and d.trigger_id not in (select trigger_id from down)
       or d.node <> $1 and d.told_at < now() - interval '1 hour'
)
insert into walhook.endpoint_down (trigger_id, node, reason, since)
select trigger_id, $1, reason, since from down
on conflict (trigger_id, node) do update set reason = excluded.reason, since = excluded.since, told_at = now()
