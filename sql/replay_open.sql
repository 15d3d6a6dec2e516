-- Purpose: the replays to go on with, each taken by one node at a time, and how many of their events wait, up to $1.
-- Caller: queue::replay::advance_replays. Locks: the rows, those that another node has are left to it.
-- Index: replay_open, deferred_replay.
select r.id, r.trigger_id, r.source_id, r.done_to, r.to_seq, r.rate,
       exists (select from walhook.trigger t where t.id = r.trigger_id and t.deleted_at is null) as live,
       (select count(*) from (select from walhook.deferred d where d.replay_id = r.id limit $1) ahead) as waiting
from walhook.replay r
where r.state = 'running'
order by r.requested_at
for update of r skip locked
