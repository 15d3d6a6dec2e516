-- Purpose: note who owns these lanes now, and say which of them were this node's before.
-- Caller: queue::lane::take_lanes. Locks: the rows. Index: lane_pkey.
with before as (
    select lane, node from walhook.lane where lane = any($2) for update
),
taken as (
    update walhook.lane set node = $1, taken_at = now() from before where before.lane = lane.lane
)
select lane from before where node = $1
