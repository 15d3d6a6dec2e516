-- The stable surface for operators: what happened to each event, and each trigger's state.

create view walhook.attempts as
select a.event_id, t.name as trigger, a.number, a.started_at, a.duration_micros, a.status, a.verdict, a.response,
       a.error
from walhook.attempt a
left join walhook.trigger t on t.id = a.trigger_id;

create view walhook.events as
select e.id, t.name as trigger, e.operation, e.schema_name, e.table_name, e.committed_at,
       case
           when d.event_id is not null and d.reason = 'retry' then 'retrying'
           when d.event_id is not null then 'pending'
           when a.verdict is not null then a.verdict
           when t.deleted_at is not null then 'archived'
           else 'pending'
       end as status,
       coalesce(a.attempts, 0) as attempts, a.status as last_status, a.error as last_error,
       a.started_at as last_attempt_at, d.due_at as next_attempt_at,
       e.old::json as old, e.new::json as new, e.missing_columns, e.commit_lsn, e.ordinal, e.xid, e.seq, e.source_id
from walhook.event e
left join walhook.trigger t on t.id = e.trigger_id
left join walhook.deferred d on d.event_id = e.id
left join lateral (
    select last.verdict, last.status, last.error, last.started_at,
           count(*) over () as attempts
    from walhook.attempt last
    where last.trigger_id = e.trigger_id and last.source_id = e.source_id and last.event_seq = e.seq
    order by last.started_at desc
    limit 1
) a on true;

create view walhook.status as
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
           filter (where e.last_error is not null))[1] as last_error
from walhook.trigger t
left join walhook.events e on e.trigger = t.name
where t.deleted_at is null
group by t.id, t.name;
