-- Purpose: what the publication publishes, and whether the table is in it (by name, by schema, or as one of all).
-- Caller: triggers::publication::read. Locks: none. Index: pg_publication_pubname_index, pg_publication_rel_prrelid_prpubid_index.
select p.pubinsert, p.pubupdate, p.pubdelete, p.pubviaroot,
       p.puballtables
           or exists (select from pg_publication_rel r where r.prpubid = p.oid and r.prrelid = $2)
           or exists (select
                      from pg_publication_tables t
                      join pg_namespace n on n.nspname = t.schemaname
                      join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
                      where t.pubname = p.pubname and c.oid = $2) as contains
from pg_publication p
where p.pubname = $1::text
