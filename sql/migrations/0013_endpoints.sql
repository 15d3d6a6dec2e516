-- Which triggers' endpoints are down.

-- Written by the nodes that deliver: when it changed, and again every 20 s while anything is down, so that what a node
-- left behind when it ended shows by its age.
create table walhook.endpoint_down (
    trigger_id uuid not null,
    node       uuid not null,
    reason     text not null,
    since      timestamptz not null,
    told_at    timestamptz not null default now(),
    primary key (trigger_id, node)
) with (fillfactor = 50);

-- For operators: each trigger and whether its endpoint works. While it is down nothing but a probe now and then goes
-- out, and its events keep their retries.
create view walhook.endpoints as
select t.name as trigger, t.id as trigger_id, case when d.since is null then 'up' else 'down' end as state, d.reason,
       d.since
from walhook.trigger t
left join lateral (
    select min(since) as since, (array_agg(reason order by since))[1] as reason
    from walhook.endpoint_down
    where trigger_id = t.id and told_at > now() - interval '1 minute'
) d on true
where t.deleted_at is null;
