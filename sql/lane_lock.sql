-- Purpose: own a lane for as long as this session lives. Tried, not waited for: a wait would hold a snapshot open.
-- Caller: queue::lane::lock_lanes. Locks: session advisory lock (walhook lane, lane). Index: none.
select pg_try_advisory_lock(hashtext('walhook lane'), $1)
