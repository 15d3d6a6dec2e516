-- View `walhook.status` says whether a trigger is paused.

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
left join walhook.trigger_pause p on p.trigger_id = t.id
left join walhook.events e on e.trigger_id = t.id
where t.deleted_at is null
group by t.id, t.name, s.name, p.trigger_id;
