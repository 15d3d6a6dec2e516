-- Purpose: the definitions of a source's catalogue that a slot is not shown which starts at $2 in the WAL of $3. What
--          was made there or after is shown. Positions of another cluster, which this one was restored from, mean
--          nothing, nor do those that this one did not reach.
-- Caller: queue::catalogue::versions_before. Locks: none. Index: none (the catalogue is small).
select trigger_id, version, watch::text, definition::text
from walhook.trigger_version
where source_id = $1 and (made_lsn between $2 and pg_current_wal_lsn() and system_identifier = $3) is not true
