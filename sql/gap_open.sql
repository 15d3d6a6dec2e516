-- Purpose: why capture does not start: the reasons of all gaps that nobody accepted; null where there is none.
-- Caller: queue::source::open_gap. Locks: none. Index: none (a handful of rows).
select string_agg(reason, '; ' order by id) from walhook.gap where source_id = $1 and accepted_at is null
