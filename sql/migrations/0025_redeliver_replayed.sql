-- A retry of a replay, or one that is held, which somebody has redelivered is that replay's no more: to cancel the
-- replay would drop it.

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
    select d.reason into reason_before from walhook.deferred d
    where d.event_id = redeliver.event_id and d.reason not in ('parked', 'released', 'manual')
    for update;
    if found then
        -- One that waits for a retry keeps its time; one that was never attempted is delivered in its turn.
        update walhook.deferred d
        set number = 0, reason = 'redelivery', due_at = case when d.reason = 'held' then now() else d.due_at end,
            replay_id = null
        where d.event_id = redeliver.event_id;
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
    set number = 0, reason = excluded.reason, due_at = excluded.due_at, replay_id = null
    where known.reason = 'held';
    get diagnostics redelivered = row_count;
    perform pg_notify('walhook', 'deferred');
    return redelivered;
end
$$;
