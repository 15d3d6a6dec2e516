-- What writers say inside their transactions: context for the events that follow, and events of their own. Both are
-- transactional logical messages, so they are in the WAL of the source at their place in commit order, gone where the
-- transaction or savepoint is rolled back, and they need no table of this schema. `capture::message` reads them.

-- Writers are roles of the application. USAGE lets them name the functions; tables and views of this schema stay closed
-- to them, because nobody was granted anything on those. A function that others may not call must say
-- `revoke execute on function ... from public`.
grant usage on schema walhook to public;
-- Event triggers call theirs whoever runs the command.
revoke execute on function walhook.keep_identity() from public;

create function walhook.set_context(context jsonb) returns void
language plpgsql as $$
begin
    if context is not null and jsonb_typeof(context) <> 'object' then
        raise exception 'walhook.set_context: the context must be a JSON object, not %', jsonb_typeof(context)
            using errcode = 'invalid_parameter_value';
    end if;
    if octet_length(convert_to(context::text, 'UTF8')) > 8192 then
        raise exception 'walhook.set_context: the context is longer than 8192 bytes, and it is stored with each event'
            using errcode = 'invalid_parameter_value';
    end if;
    perform pg_logical_emit_message(
        true, 'walhook', convert_to('{"context":' || coalesce(context::text, 'null') || '}', 'UTF8'));
end
$$;

comment on function walhook.set_context(jsonb) is
    'Gives the later events of this transaction their session_variables: a JSON object, or null to end it.';

create function walhook.emit(type text, data jsonb default null) returns void
language plpgsql as $$
begin
    if coalesce(type, '') = '' or octet_length(convert_to(type, 'UTF8')) > 255 then
        raise exception 'walhook.emit: the type must have 1 to 255 bytes' using errcode = 'invalid_parameter_value';
    end if;
    perform pg_logical_emit_message(
        true, 'walhook',
        convert_to('{"event":{"type":' || to_json(type) || ',"data":' || coalesce(data::text, 'null') || '}}', 'UTF8'));
end
$$;

comment on function walhook.emit(text, jsonb) is
    'Makes a custom event of this type, in commit order with the events of rows; none if the transaction rolls back.';

grant execute on function walhook.set_context(jsonb), walhook.emit(text, jsonb) to public;

-- A trigger on custom events has no table.
alter table walhook.trigger alter column relation drop not null;
alter table walhook.event
    alter column schema_name drop not null,
    alter column table_name drop not null,
    add column event_type text,              -- of a custom event, instead of a table
    add column session_variables text;       -- JSON, what the writer gave with set_context

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
       e.event_type, e.session_variables::json as session_variables
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
       t.definition ->> 'type' as event_type
from walhook.trigger t
left join walhook.events e on e.trigger = t.name
where t.deleted_at is null
group by t.id, t.name;
