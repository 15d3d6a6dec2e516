-- Purpose: note the events that are older than this and still in the log: their attempts stay too.
-- Caller: queue::retention::replace. Locks: none. Index: none: partitions that are this old hold little, but one that
--         could not be dropped.
insert into walhook.kept (trigger_id, source_id, seq)
select trigger_id, source_id, seq from walhook.event where committed_at < $1
