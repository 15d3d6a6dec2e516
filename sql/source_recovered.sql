-- Purpose: a source is captured again.
-- Caller: queue::source::clear_failure. Locks: one row. Index: source_failure_pkey.
delete from walhook.source_failure where source = $1
