-- Purpose: every definition that a source's catalogue had so far, for a slot that starts behind them.
-- Caller: queue::catalogue::versions. Locks: none. Index: none (the catalogue is small).
select trigger_id, version, watch::text, definition::text from walhook.trigger_version where source_id = $1
