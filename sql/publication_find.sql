-- Purpose: what a publication publishes, whether the catalogue is among it, and whether it leaves stored generated
--          columns out though this Postgres could publish them (18 and later).
-- Caller: capture::slot. Locks: none. Index: pg_publication_pubname_index.
select p.puballtables, p.pubinsert and p.pubupdate and p.pubdelete as publishes_rows, p.pubviaroot,
       exists (
           select from pg_publication_tables t
           where t.pubname = p.pubname and t.schemaname = 'walhook' and t.tablename = 'trigger_version'
       ) as has_catalogue,
       to_jsonb(p) ->> 'pubgencols' is not distinct from 'n' as hides_generated
from pg_publication p
where p.pubname = $1
