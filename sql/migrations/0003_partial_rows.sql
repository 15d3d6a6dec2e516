-- What an event could not know, because the table's replica identity is not FULL. Null stands for false.

alter table walhook.event add column old_partial boolean, add column undecided boolean;

create or replace view walhook.events as
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
       coalesce(e.old_partial, false) as old_partial, coalesce(e.undecided, false) as undecided
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
