-- Purpose: what a publication publishes, and whether the catalogue is among it.
-- Caller: capture::slot. Locks: none. Index: pg_publication_pubname_index.
select p.puballtables, p.pubinsert and p.pubupdate and p.pubdelete as publishes_rows, p.pubviaroot,
       exists (
           select from pg_publication_tables t
           where t.pubname = p.pubname and t.schemaname = 'walhook' and t.tablename = 'trigger_version'
       ) as has_catalogue
from pg_publication p
where p.pubname = $1
