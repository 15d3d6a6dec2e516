-- Backfills: existing rows of a trigger's table, sent on request as INSERT events.

-- What was asked for. It belongs to the source's database; `state` is written by who asks and by the node that
-- captures.
create table walhook.backfill (
    id             uuid primary key,
    source_id      smallint not null,
    trigger_id     uuid not null,
    condition      text,                 -- SQL over the table's columns; null for all rows
    key_columns    text[] not null,      -- in whose order the rows are read
    estimated_rows bigint,               -- of the whole table, by the planner's statistics
    state          text not null default 'waiting'
                   check (state in ('waiting', 'running', 'done', 'failed', 'cancelled')),
    requested_at   timestamptz not null default now(),
    started_at     timestamptz,
    ended_at       timestamptz,
    error          text
);
create index backfill_open on walhook.backfill (source_id, requested_at) where state in ('waiting', 'running');

-- How far each one is. It belongs beside the log: written in one transaction with the events of the rows up to
-- `last_key`, so a crash neither repeats nor leaves out a row.
create table walhook.backfill_progress (
    backfill_id uuid primary key,
    last_key    text[] not null,
    looked_at   bigint not null,         -- rows, whether the condition holds for them or not
    sent        bigint not null,
    superseded  bigint not null,         -- not sent, because the stream had a newer event of the row for the trigger
    updated_at  timestamptz not null default now()
) with (fillfactor = 50);

alter table walhook.event add column backfill_id uuid;

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
       coalesce(e.old_partial, false) as old_partial, coalesce(e.undecided, false) as undecided,
       e.event_type, e.session_variables::json as session_variables, e.trigger_id, s.name as source, e.backfill_id
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

-- Of a source with its queue in the same database. Where that is another one, the progress is there.
create view walhook.backfills as
select b.id, t.name as trigger, b.condition, b.state, b.estimated_rows, coalesce(p.looked_at, 0) as looked_at,
       coalesce(p.sent, 0) as sent, coalesce(p.superseded, 0) as superseded, b.key_columns, p.last_key,
       b.requested_at, b.started_at, p.updated_at, b.ended_at, b.error, b.source_id
from walhook.backfill b
left join walhook.trigger t on t.id = b.trigger_id
left join walhook.backfill_progress p on p.backfill_id = b.id;
