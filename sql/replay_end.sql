-- Purpose: end a replay, as done or with an error.
-- Caller: queue::replay::advance_replays. Locks: the row. Index: replay_pkey.
update walhook.replay
set state = case when $2::text is null then 'done' else 'failed' end, error = $2, ended_at = now()
where id = $1 and state = 'running'
