-- Custom events for a later time. They are in the log as all events are, at the place of their commit, but wait in
-- `deferred` from there on, so who reads the log for what is to be sent passes them over.

alter table walhook.event add column deliver_at timestamptz;   -- null: in its turn

-- One more argument, so it is another function to Postgres; calls as before mean what they meant.
drop function walhook.emit(text, jsonb);

create function walhook.emit(type text, data jsonb default null, deliver_at timestamptz default null) returns void
language plpgsql as $$
begin
    if coalesce(type, '') = '' or octet_length(convert_to(type, 'UTF8')) > 255 then
        raise exception 'walhook.emit: the type must have 1 to 255 bytes' using errcode = 'invalid_parameter_value';
    end if;
    if not isfinite(deliver_at) or deliver_at > now() + interval '10 years' then
        raise exception 'walhook.emit: deliver_at must be a time within the next 10 years, or one that is over'
            using errcode = 'invalid_parameter_value';
    end if;
    perform pg_logical_emit_message(
        true, 'walhook',
        convert_to('{"event":{"type":' || to_json(type) || ',"data":' || coalesce(data::text, 'null')
                   || coalesce(',"deliver_at":' || (extract(epoch from deliver_at) * 1000000)::bigint, '') || '}}',
                   'UTF8'));
end
$$;

comment on function walhook.emit(text, jsonb, timestamptz) is
    'Makes a custom event of this type, in commit order with the events of rows or at a later time; none if the '
    'transaction rolls back.';

grant execute on function walhook.emit(text, jsonb, timestamptz) to public;
