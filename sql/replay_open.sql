-- Purpose: the replays to go on with, each taken by one node at a time, and how many of their events wait, up to $1; of
--          those, how many were not sent yet, and do not wait for a retry.
-- Caller: queue::replay::advance_replays. Locks: the rows, those that another node has are left to it.
-- Index: replay_open, deferred_replay.
select r.id, r.trigger_id, r.source_id, r.done_to, r.to_seq, r.rate,
       exists (select from walhook.trigger t where t.id = r.trigger_id and t.deleted_at is null) as live,
       waiting.all_of_them as waiting, waiting.ahead
from walhook.replay r
cross join lateral (
    select count(*) as all_of_them, count(*) filter (where d.reason = 'redelivery') as ahead
    from (select reason from walhook.deferred where replay_id = r.id limit $1) d
) waiting
where r.state = 'running'
order by r.requested_at
for update of r skip locked
