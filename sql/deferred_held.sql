-- Purpose: the rows of a trigger whose later events wait, and in which lane.
-- Caller: queue::deferred::held_rows. Locks: none. Index: deferred_row (read once, at take-over).
select row_hash, min(lane) from walhook.deferred where trigger_id = $1 and row_hash is not null group by row_hash
