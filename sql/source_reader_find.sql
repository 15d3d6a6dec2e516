-- Purpose: which node read a source's slot last.
-- Caller: queue::source::last_reader. Locks: none. Index: source_reader_pkey.
select node_id from walhook.source_reader where source_id = $1
