-- Purpose: the gap that keeps capture from starting, if there is one.
-- Caller: queue::source::open_gap. Locks: none. Index: none (a handful of rows).
select id, reason from walhook.gap where source_id = $1 and accepted_at is null order by id limit 1
