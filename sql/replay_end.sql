-- Purpose: end a replay, as done or with an error. Not as done where events of it wait after all: another node may have
--          made them due since it was read how many do.
-- Caller: queue::replay::advance_replays. Locks: the row. Index: replay_pkey, deferred_replay.
update walhook.replay
set state = case when $2::text is null then 'done' else 'failed' end, error = $2, ended_at = now()
where id = $1 and state = 'running'
  and ($2::text is not null or not exists (select from walhook.deferred where replay_id = $1))
