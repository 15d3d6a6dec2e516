-- Purpose: make the next events of a replay due, at most $2, in their order and spread by its rate. One that waits
--          anyway keeps its time; one that was never attempted is delivered in its turn. Trigger, source and stretch
--          ($3 to $6) are given again, so that the planner sees that few rows are wanted of many.
-- Caller: queue::replay::advance_replays. Locks: the replay's row, new rows. Index: event_trigger, cursor_pkey,
--         attempt_event, deferred_pkey.
with replay as (
    select r.*, greatest(now(), r.next_due_at) as starts_at,
           greatest(interval '1 second' / r.rate, interval '1 microsecond') as step
    from walhook.replay r where r.id = $1
), looked_at as materialized (
    select e.id, e.trigger_id, e.source_id, e.seq, e.committed_at, e.commit_lsn, e.lane
    from walhook.event e
    where e.trigger_id = $3 and e.source_id = $4 and e.seq > $5 and e.seq <= $6
    order by e.seq
    limit $2
), wanted as materialized (
    select l.*, row_number() over (order by l.seq) as place
    from looked_at l
    cross join replay r
    where l.committed_at >= coalesce(r.from_time, '-infinity') and l.commit_lsn >= coalesce(r.from_lsn, '0/0')
), queued as (
    insert into walhook.deferred (event_id, trigger_id, source_id, seq, committed_at, lane, due_at, reason, replay_id)
    select w.id, w.trigger_id, w.source_id, w.seq, w.committed_at, w.lane, r.starts_at + (w.place - 1) * r.step,
           'redelivery', r.id
    from wanted w
    cross join replay r
    where exists (select from walhook.cursor c
                  where c.trigger_id = w.trigger_id and c.source_id = w.source_id and c.lane = w.lane
                    and c.seq >= w.seq)
       or exists (select from walhook.attempt a
                  where a.trigger_id = w.trigger_id and a.source_id = w.source_id and a.event_seq = w.seq)
    on conflict (event_id) do nothing
    returning event_id
), counted as (
    select (select count(*) from looked_at) as looked_at, (select max(seq) from looked_at) as last_seq,
           (select count(*) from wanted) as wanted, (select count(*) from queued) as queued
), moved as (
    update walhook.replay r
    set done_to = case when c.looked_at < $2 then r.to_seq else c.last_seq end,
        queued = r.queued + c.queued, skipped = r.skipped + c.wanted - c.queued,
        next_due_at = p.starts_at + c.wanted * p.step
    from counted c, replay p
    where r.id = p.id
)
select case when c.queued > 0 then pg_notify('walhook', 'deferred') end from counted c
