-- Purpose: note who owns these lanes now, and say since when. What was this node's stays as it was noted: so it can
--          tell those that nobody else had meanwhile, also where an answer to this was lost.
-- Caller: queue::lane::take_lanes. Locks: the rows. Index: lane_pkey.
with before as (
    select lane, node, taken_at from walhook.lane where lane = any($2) for update
),
taken as (
    update walhook.lane set node = $1, taken_at = now() from before
    where before.lane = lane.lane and before.node is distinct from $1
)
select lane, case when node = $1 then taken_at else now() end from before
