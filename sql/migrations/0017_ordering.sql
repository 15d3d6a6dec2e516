-- Order: which events wait for the ones before them, and which wait for somebody to decide.

-- The row that an event is of; null where it has none: TRUNCATE, custom and invoked events, tables without a key.
alter table walhook.event add column row_hash bigint;

-- The row whose later events wait for this one; 0 stands for all events of the trigger. Null where none wait, as for
-- invoked events and those that were sent again after later ones. The parked ones of a row are behind one that is not.
alter table walhook.deferred add column row_hash bigint;
alter table walhook.deferred drop constraint deferred_reason_check;
alter table walhook.deferred add constraint deferred_reason_check
    check (reason in ('retry', 'manual', 'redelivery', 'parked', 'released', 'held', 'skipped'));

create index deferred_row on walhook.deferred (trigger_id, row_hash, seq) where row_hash is not null;

create or replace view walhook.events as
select e.id, t.name as trigger, e.operation, e.schema_name, e.table_name, e.committed_at,
       case
           when d.reason = 'retry' then 'retrying'
           when d.reason in ('parked', 'held') then d.reason
           when d.reason = 'skipped' then 'dead'
           when d.event_id is not null then 'pending'
           -- One that was skipped while it waited for its retry.
           when a.verdict in ('retry', 'paused') and t.deleted_at is null then 'dead'
           when a.verdict is not null then a.verdict
           when t.deleted_at is not null then 'archived'
           else 'pending'
       end as status,
       coalesce(a.attempts, 0) as attempts, a.status as last_status, a.error as last_error,
       a.started_at as last_attempt_at, nullif(d.due_at, 'infinity') as next_attempt_at,
       e.old::json as old, e.new::json as new, e.missing_columns, e.commit_lsn, e.ordinal, e.xid, e.seq, e.source_id,
       coalesce(e.old_partial, false) as old_partial, coalesce(e.undecided, false) as undecided,
       e.event_type, e.session_variables::json as session_variables, e.trigger_id, s.name as source, e.backfill_id,
       e.row_hash
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
       count(*) filter (where e.status = 'parked') as parked
from walhook.trigger t
join walhook.source s on s.id = t.source_id
left join walhook.events e on e.trigger_id = t.id
where t.deleted_at is null
group by t.id, t.name, s.name;

-- Delivery finds the mark, lets the event go as dead, and lets the next one of its row go out.
create function walhook.skip_event(event_id uuid) returns boolean
language sql security definer
set search_path = pg_catalog, pg_temp
as $$
    select pg_notify('walhook', 'deferred');
    -- One that was never attempted would be taken for one that nobody looked at yet.
    with skipped as (
        update walhook.deferred d set reason = 'skipped', due_at = now()
        where d.event_id = skip_event.event_id and d.reason in ('retry', 'held', 'redelivery')
        returning 1
    )
    select exists (select from skipped)
$$;

comment on function walhook.skip_event(uuid) is
    'Gives up an event that is held or retried, so that what waits for it goes on. False where it is neither.';

revoke execute on function walhook.skip_event(uuid) from public;

-- Held events are sent again like dead ones; those that wait for others keep their place.

create or replace function walhook.redeliver(event_id uuid) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    deleted boolean;
    reason_before text;
begin
    select t.deleted_at is not null into deleted
    from walhook.event e
    join walhook.trigger t on t.id = e.trigger_id
    where e.id = redeliver.event_id and e.committed_at >= walhook.id_time(redeliver.event_id)
      and e.committed_at < walhook.id_time(redeliver.event_id) + interval '1 millisecond';
    if deleted is null then
        raise exception 'event % not found', event_id using errcode = 'no_data_found';
    elsif deleted then
        return false;
    end if;
    select d.reason into reason_before from walhook.deferred d where d.event_id = redeliver.event_id for update;
    if found then
        -- One that waits for a retry keeps its time; one that was never attempted is delivered in its turn.
        update walhook.deferred d
        set number = 0, reason = 'redelivery', due_at = case when d.reason = 'held' then now() else d.due_at end
        where d.event_id = redeliver.event_id and d.reason not in ('parked', 'released', 'manual');
        perform pg_notify('walhook', 'deferred');
        return reason_before = 'held';
    end if;
    insert into walhook.deferred (event_id, trigger_id, source_id, seq, committed_at, lane, reason)
    select e.id, e.trigger_id, e.source_id, e.seq, e.committed_at, e.lane, 'redelivery'
    from walhook.event e
    where e.id = redeliver.event_id and e.committed_at >= walhook.id_time(redeliver.event_id)
      and e.committed_at < walhook.id_time(redeliver.event_id) + interval '1 millisecond'
      and exists (select from walhook.attempt a
                  where a.trigger_id = e.trigger_id and a.source_id = e.source_id and a.event_seq = e.seq)
    on conflict do nothing;
    if found then
        perform pg_notify('walhook', 'deferred');
        return true;
    end if;
    return false;
end
$$;

create or replace function walhook.dead_events(
    trigger text, since timestamptz default null, until timestamptz default null, status int default null,
    source text default null
) returns table (
    event_id uuid, trigger_id uuid, source_id smallint, seq bigint, died_at timestamptz, last_status smallint
)
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    wanted uuid := walhook.live_trigger(trigger, source);
begin
    return query
    select a.event_id, a.trigger_id, a.source_id, a.event_seq, a.started_at, a.status
    from walhook.attempt a
    where a.trigger_id = wanted and a.verdict = 'dead'
      and a.started_at >= coalesce(since, '-infinity') and a.started_at < coalesce(until, 'infinity')
      and (dead_events.status is null or coalesce(a.status, 0) = dead_events.status)
      and not exists (
          select from walhook.attempt later
          where later.trigger_id = a.trigger_id and later.source_id = a.source_id and later.event_seq = a.event_seq
            and later.started_at > a.started_at
      )
      and not exists (select from walhook.deferred d where d.event_id = a.event_id and d.reason <> 'held');
end
$$;

create or replace function walhook.redeliver_dead(
    trigger text, since timestamptz default null, until timestamptz default null, status int default null,
    source text default null
) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    redelivered bigint;
begin
    -- In their order, where they are due at the same time.
    insert into walhook.deferred as known (event_id, trigger_id, source_id, seq, committed_at, lane, due_at, reason)
    select e.id, e.trigger_id, e.source_id, e.seq, e.committed_at, e.lane,
           now() + row_number() over (order by e.seq) * interval '1 microsecond', 'redelivery'
    from walhook.dead_events(trigger, since, until, status, source) dead
    join walhook.event e
      on e.trigger_id = dead.trigger_id and e.source_id = dead.source_id and e.seq = dead.seq
     and e.committed_at >= walhook.id_time(dead.event_id)
     and e.committed_at < walhook.id_time(dead.event_id) + interval '1 millisecond'
    on conflict (event_id) do update
    set number = 0, reason = excluded.reason, due_at = excluded.due_at
    where known.reason = 'held';
    get diagnostics redelivered = row_count;
    perform pg_notify('walhook', 'deferred');
    return redelivered;
end
$$;
