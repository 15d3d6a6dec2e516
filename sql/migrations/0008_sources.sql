-- Several sources on one queue, and a queue in another database than the source.
--
-- Every database of walhook has the whole schema. A source's database holds its catalogue (trigger, trigger_version,
-- watched_table); the queue's database holds the log and what belongs to it, and a copy of each source's triggers,
-- which capture writes at the place in the WAL where it passes their definitions. Where both are one database, the
-- copy is the catalogue itself.

-- What delivery needs of a version, beside what capture needs.
alter table walhook.trigger_version add column definition json;

-- The queue knows by itself what is watched where capture stands.
alter table walhook.activation add column source_id smallint, add column watch json;
update walhook.activation a set source_id = v.source_id, watch = v.watch
from walhook.trigger_version v where v.trigger_id = a.trigger_id and v.version = a.version;
delete from walhook.activation where source_id is null;
alter table walhook.activation alter column source_id set not null;

-- Why a source is not captured; no row while it is.
create table walhook.source_failure (
    source    text primary key,
    reason    text not null,
    failed_at timestamptz not null default now()
);

drop view walhook.status;
drop view walhook.events;
drop view walhook.attempts;

create view walhook.attempts as
select a.event_id, t.name as trigger, a.number, a.started_at, a.duration_micros, a.status, a.verdict, a.response,
       a.error, s.name as source
from walhook.attempt a
left join walhook.trigger t on t.id = a.trigger_id
left join walhook.source s on s.id = t.source_id;

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
       e.old::json as old, e.new::json as new, e.missing_columns, e.commit_lsn, e.ordinal, e.xid, e.seq, e.source_id,
       coalesce(e.old_partial, false) as old_partial, coalesce(e.undecided, false) as undecided,
       e.event_type, e.session_variables::json as session_variables, e.trigger_id, s.name as source
from walhook.event e
left join walhook.trigger t on t.id = e.trigger_id
left join walhook.source s on s.id = t.source_id
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
           filter (where e.last_error is not null))[1] as last_error,
       t.definition ->> 'type' as event_type, s.name as source
from walhook.trigger t
join walhook.source s on s.id = t.source_id
left join walhook.events e on e.trigger_id = t.id
where t.deleted_at is null
group by t.id, t.name, s.name;

-- For operators, in place of the view before: whether a node captures the source now (it holds the source's advisory
-- lock), and if none does, why.
drop view walhook.source_status;

create view walhook.source_status as
select known.source, known.slot, known.publication, t.timeline, t.wal_status, t.confirmed_lsn, t.retained_bytes,
       t.max_retained_bytes, t.warning, t.checked_at,
       (select g.reason from walhook.gap g where g.source_id = known.id and g.accepted_at is null order by g.id limit 1)
           as open_gap,
       known.captured,
       case when not known.captured then known.reason end as failure,
       case when not known.captured then known.failed_at end as failed_at
from (
    select coalesce(s.name, f.source) as source, s.id, s.slot, s.publication, f.reason, f.failed_at,
           exists (
               select from pg_locks l
               where l.locktype = 'advisory' and l.granted and l.objsubid = 2 and l.objid = s.id::int
                 and l.classid::bigint = (hashtext('walhook capture')::bigint & 4294967295)
                 and l.database = (select oid from pg_database where datname = current_database())
           ) as captured
    from walhook.source s
    full join walhook.source_failure f on f.source = s.name
) known
left join walhook.slot_status t on t.source_id = known.id;
