-- Purpose: ask for a replay. The nodes that deliver are told once this commits.
-- Caller: triggers::Catalogue::start_replay. Locks: none. Index: replay_pkey, replay_open.
with requested as (
    insert into walhook.replay (id, trigger_id, source_id, from_time, from_lsn, done_to, to_seq, rate, events)
    values ($1, $2, $3, $4::text::timestamptz, $5::text::pg_lsn, $6, $7, $8, $9)
    returning id
)
select pg_notify('walhook', 'replays') from requested
