-- Purpose: drop what a replay made due and is not sent yet. Retries go on.
-- Caller: queue::replay::forget_replay, once nobody adds to it any more. Locks: the rows. Index: deferred_replay.
delete from walhook.deferred where replay_id = $1 and reason = 'redelivery'
