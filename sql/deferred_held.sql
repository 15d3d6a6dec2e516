-- Purpose: the rows of a trigger, in our lanes, whose later events wait.
-- Caller: queue::deferred::held_rows. Locks: none. Index: deferred_row (read when lanes were got).
select distinct row_hash from walhook.deferred
where trigger_id = $1 and row_hash is not null and lane = any($2::smallint[])
