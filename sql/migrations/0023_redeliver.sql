-- Who redelivers an event in a transaction that stays open locks its row. That of one that waits for others, or for its
-- time, is left alone: a node may have to release it meanwhile.

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
        set number = 0, reason = 'redelivery', due_at = case when d.reason = 'held' then now() else d.due_at end
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
