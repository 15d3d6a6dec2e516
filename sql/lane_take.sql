-- Purpose: note who owns the lanes now, and say whether all were this node's before.
-- Caller: queue::lane::try_acquire. Locks: 16 rows. Index: lane_pkey.
with before as (select lane, node from walhook.lane for update),
     taken as (
         update walhook.lane set node = $1, taken_at = now()
         from before where before.lane = lane.lane
     )
select coalesce(bool_and(node = $1), false) from before
