-- A resumed trigger is not paused once more by what was answered to requests of before: its row stays and says since
-- when it goes on. An answer that waits to be recorded meanwhile finds that row, also one that commits at that moment.

alter table walhook.trigger_pause add column resumed_at timestamptz;

create or replace function walhook.pause(trigger text, source text default null, reason text default null) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into walhook.trigger_pause as known (trigger_id, reason)
    values (walhook.live_trigger(trigger, source), coalesce(reason, 'paused by ' || session_user))
    on conflict (trigger_id) do update
    set reason = excluded.reason, since = excluded.since, resumed_at = null
    where known.resumed_at is not null;
    perform pg_notify('walhook', 'triggers');
end
$$;

create or replace function walhook.resume(trigger text, source text default null) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Not the transaction's begin: it may have been before the pause.
    update walhook.trigger_pause p set resumed_at = clock_timestamp()
    where p.trigger_id = walhook.live_trigger(trigger, source) and p.resumed_at is null;
    perform pg_notify('walhook', 'triggers');
end
$$;

create or replace view walhook.trigger_status as
select t.name as trigger, t.id as trigger_id,
       case
           when held.trigger_id is not null then 'paused'
           when p.trigger_id is not null then 'degraded'
           else 'active'
       end as status,
       nullif(concat_ws('; ', held.reason, p.reason), '') as reason, coalesce(held.since, p.since) as since,
       s.name as source
from walhook.trigger t
join walhook.source s on s.id = t.source_id
left join walhook.trigger_problem p on p.trigger_id = t.id
left join walhook.trigger_pause held on held.trigger_id = t.id and held.resumed_at is null
where t.deleted_at is null;

create or replace view walhook.status as
select t.name as trigger, t.id as trigger_id, t.definition -> 'table' ->> 'schema' as schema_name,
       t.definition -> 'table' ->> 'name' as table_name,
       count(e.id) as events,
       count(*) filter (where e.status = 'delivered') as delivered,
       count(*) filter (where e.status = 'pending') as pending,
       count(*) filter (where e.status = 'retrying') as retrying,
       count(*) filter (where e.status = 'dead') as dead,
       coalesce(sum(e.attempts), 0)::bigint as attempts,
       max(e.last_attempt_at) as last_attempt_at,
       (array_agg(e.last_error order by e.last_attempt_at desc)
           filter (where e.last_error is not null))[1] as last_error,
       t.definition ->> 'type' as event_type, s.name as source,
       count(*) filter (where e.status = 'held') as held,
       count(*) filter (where e.status = 'parked') as parked,
       p.trigger_id is not null as paused
from walhook.trigger t
join walhook.source s on s.id = t.source_id
left join walhook.trigger_pause p on p.trigger_id = t.id and p.resumed_at is null
left join walhook.events e on e.trigger_id = t.id
where t.deleted_at is null
group by t.id, t.name, s.name, p.trigger_id;
