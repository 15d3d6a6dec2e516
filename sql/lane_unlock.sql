-- Purpose: give lanes back.
-- Caller: queue::lane::give_back_lanes. Locks: ends session advisory locks (walhook lane, lane). Index: none.
select pg_advisory_unlock(hashtext('walhook lane'), lane) from unnest($1::smallint[]) lane
