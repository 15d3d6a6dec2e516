-- Pausing a trigger: its events go on to be logged and wait until it is resumed. Nothing of them is dropped.

-- Paused triggers. It belongs to the queue's database, where delivery reads it with the triggers.
create table walhook.trigger_pause (
    trigger_id uuid primary key,
    reason     text not null,
    since      timestamptz not null default now()
);

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
left join walhook.trigger_pause held on held.trigger_id = t.id
where t.deleted_at is null;

-- The functions for operators run with the rights of walhook's role, so that a role needs no right but EXECUTE on them.

create function walhook.live_trigger(name text, source text) returns uuid
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    found uuid[];
begin
    select array_agg(t.id) into found
    from walhook.trigger t
    join walhook.source s on s.id = t.source_id
    where t.name = live_trigger.name and t.deleted_at is null
      and (live_trigger.source is null or s.name = live_trigger.source);
    if found is null then
        raise exception 'event trigger "%" does not exist', name using errcode = 'undefined_object';
    elsif not exists (
        select from walhook.trigger t join walhook.progress p on p.source_id = t.source_id where t.id = any(found)
    ) then
        raise exception 'the events of trigger "%" are queued in another database', name
            using errcode = 'object_not_in_prerequisite_state', hint = 'call this in the database of --queue-url';
    elsif cardinality(found) > 1 then
        raise exception 'several sources have an event trigger "%"', name
            using errcode = 'ambiguous_parameter', hint = 'name the source as well, as the second argument';
    end if;
    return found[1];
end
$$;

create function walhook.pause(trigger text, source text default null, reason text default null) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into walhook.trigger_pause (trigger_id, reason)
    values (walhook.live_trigger(trigger, source), coalesce(reason, 'paused by ' || session_user))
    on conflict do nothing;
    perform pg_notify('walhook', 'triggers');
end
$$;

comment on function walhook.pause(text, text, text) is
    'Holds a trigger''s events from this transaction''s commit on, until it is resumed. Requests under way end.';

create function walhook.resume(trigger text, source text default null) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from walhook.trigger_pause where trigger_id = walhook.live_trigger(trigger, source);
    perform pg_notify('walhook', 'triggers');
end
$$;

comment on function walhook.resume(text, text) is
    'Lets a paused trigger''s events go on from this transaction''s commit on.';

revoke execute on function walhook.live_trigger(text, text), walhook.pause(text, text, text), walhook.resume(text, text)
    from public;
