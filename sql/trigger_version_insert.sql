-- Purpose: tell capture, through the WAL, what to watch from this commit on; a null watch ends the trigger. With it
--          where in whose WAL that is; the row itself comes there or after.
-- Caller: triggers::Catalogue create and delete. Locks: none. Index: trigger_version_pkey.
insert into walhook.trigger_version (trigger_id, version, source_id, watch, definition, made_lsn, system_identifier)
select $1, $2, $3, $4::text::json, $5::text::json, pg_current_wal_lsn(), system_identifier::text
from pg_control_system()
