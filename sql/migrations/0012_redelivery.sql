-- Sending events again from SQL: one, or a trigger's dead ones. All in the caller's transaction, with its commit.

-- Dead events are found without a look at the other attempts, which are nearly all.
create index if not exists attempt_dead on walhook.attempt (trigger_id, source_id, event_seq) where verdict = 'dead';

-- The milliseconds in an event's id are those of its commit, so they choose the partition and its few pages.
create function walhook.id_time(event_id uuid) returns timestamptz
language sql stable strict
return timestamptz 'epoch'
       + ('x' || left(replace(event_id::text, '-', ''), 12))::bit(48)::bigint * interval '1 millisecond';

create function walhook.redeliver(event_id uuid) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    deleted boolean;
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
    -- One that waits keeps its time; one that was never attempted is delivered in its turn.
    update walhook.deferred d set number = 0, reason = 'redelivery' where d.event_id = redeliver.event_id;
    if found then
        return false;
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

comment on function walhook.redeliver(uuid) is
    'Has an event sent again, with all its retries. False where it waits to be sent anyway or its trigger is deleted.';

-- Events whose retries are used up, by when their last attempt was and what it was answered; status 0 for no answer.
create function walhook.dead_events(
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
      and not exists (select from walhook.deferred d where d.event_id = a.event_id);
end
$$;

comment on function walhook.dead_events(text, timestamptz, timestamptz, int, text) is
    'A trigger''s dead events, by the time and the status (0: no answer) of their last attempt.';

create function walhook.redeliver_dead(
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
    insert into walhook.deferred (event_id, trigger_id, source_id, seq, committed_at, lane, due_at, reason)
    select e.id, e.trigger_id, e.source_id, e.seq, e.committed_at, e.lane,
           now() + row_number() over (order by e.seq) * interval '1 microsecond', 'redelivery'
    from walhook.dead_events(trigger, since, until, status, source) dead
    join walhook.event e
      on e.trigger_id = dead.trigger_id and e.source_id = dead.source_id and e.seq = dead.seq
     and e.committed_at >= walhook.id_time(dead.event_id)
     and e.committed_at < walhook.id_time(dead.event_id) + interval '1 millisecond'
    on conflict do nothing;
    get diagnostics redelivered = row_count;
    perform pg_notify('walhook', 'deferred');
    return redelivered;
end
$$;

comment on function walhook.redeliver_dead(text, timestamptz, timestamptz, int, text) is
    'Has a trigger''s dead events sent again, with all their retries; gives how many.';

revoke execute on function walhook.id_time(uuid), walhook.redeliver(uuid),
    walhook.dead_events(text, timestamptz, timestamptz, int, text),
    walhook.redeliver_dead(text, timestamptz, timestamptz, int, text)
    from public;
