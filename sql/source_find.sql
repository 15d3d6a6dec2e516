-- Purpose: a source as it was registered, if it was.
-- Caller: queue::source::find. Locks: none. Index: source_name_key.
select id, slot, publication, system_identifier from walhook.source where name = $1
