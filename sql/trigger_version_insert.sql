-- Purpose: tell capture, through the WAL, what to watch from this commit on; a null watch ends the trigger.
-- Caller: triggers::Catalogue create and delete. Locks: none. Index: trigger_version_pkey.
insert into walhook.trigger_version (trigger_id, version, source_id, watch, definition)
values ($1, $2, $3, $4::text::json, $5::text::json)
