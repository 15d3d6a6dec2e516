-- Purpose: end a replay.
-- Caller: triggers::Catalogue::cancel_replay. Locks: the row. Index: replay_pkey.
update walhook.replay r set state = 'cancelled', ended_at = now()
from walhook.trigger t
where r.id = $1 and r.state = 'running' and t.id = r.trigger_id and t.source_id = $2
