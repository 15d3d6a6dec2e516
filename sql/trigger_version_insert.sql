-- Purpose: tell capture, through the WAL, what to watch from this commit on; a null watch ends the trigger. With it
--          where in whose WAL that is; the row itself comes there or after. Whether the publication has this table, so
--          that capture hears of it.
-- Caller: triggers::Catalogue create and delete. Locks: none. Index: trigger_version_pkey,
--         pg_publication_pubname_index.
insert into walhook.trigger_version (trigger_id, version, source_id, watch, definition, made_lsn, system_identifier)
select $1, $2, $3, $4::text::json, $5::text::json, pg_current_wal_lsn(), system_identifier::text
from pg_control_system()
returning exists (
    select from pg_publication p
    where p.pubname = $6
      and (p.puballtables or exists (
              select from pg_publication_tables t
              where t.pubname = p.pubname and t.schemaname = 'walhook' and t.tablename = 'trigger_version'))
)
