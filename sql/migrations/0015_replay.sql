-- Replays: a stretch of a trigger's log, sent again on request.

-- What was asked for, and how far it is. It belongs to the queue's database. Events are made due in chunks, each in the
-- transaction that moves `done_to` on, so a crash neither leaves out an event nor sends a chunk again.
create table walhook.replay (
    id           uuid primary key,
    trigger_id   uuid not null,
    source_id    smallint not null,
    from_time    timestamptz,            -- events that committed before are left out
    from_lsn     pg_lsn,                 -- so are events of commits before this
    done_to      bigint not null,        -- every event up to this seq was looked at
    to_seq       bigint not null,        -- the last one
    rate         integer,                -- events a second
    events       bigint not null,        -- in the stretch, when it was asked for
    queued       bigint not null default 0,
    skipped      bigint not null default 0,   -- they waited to be sent anyway
    next_due_at  timestamptz not null default now(),
    state        text not null default 'running' check (state in ('running', 'done', 'failed', 'cancelled')),
    requested_at timestamptz not null default now(),
    ended_at     timestamptz,
    error        text
) with (fillfactor = 50);
create index replay_open on walhook.replay (requested_at) where state = 'running';

-- The replay that sends the event again.
alter table walhook.deferred add column replay_id uuid;
create index deferred_replay on walhook.deferred (replay_id) where replay_id is not null;

create view walhook.replays as
select r.id, t.name as trigger, s.name as source, r.state, r.events, r.queued, r.skipped,
       (select count(*) from walhook.deferred d where d.replay_id = r.id) as waiting,
       r.rate, r.from_time, r.from_lsn, r.done_to, r.to_seq, r.requested_at, r.ended_at, r.error
from walhook.replay r
left join walhook.trigger t on t.id = r.trigger_id
left join walhook.source s on s.id = t.source_id;
