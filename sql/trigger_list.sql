-- Purpose: every live trigger with its definition.
-- Caller: queue::catalogue::triggers. Locks: none. Index: none (the catalogue is small).
select id, source_id, version, definition::text from walhook.trigger where deleted_at is null
