-- Purpose: what the publication publishes, and whether the table is in it (by name, by schema, or as one of all).
-- Caller: triggers::publication::read. Locks: none.
-- Index: pg_publication_pubname_index, pg_publication_rel_prrelid_prpubid_index.
select p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot,
       -- Row filters and column lists came with Postgres 15; to_jsonb reads them where there are such columns.
       exists (select from pg_publication_rel r
               where r.prpubid = p.oid and r.prrelid = $2
                 and (to_jsonb(r) ->> 'prqual' is not null or to_jsonb(r) ->> 'prattrs' is not null)) as partial,
       p.puballtables
           or exists (select from pg_publication_rel r where r.prpubid = p.oid and r.prrelid = $2)
           or exists (select
                      from pg_publication_tables t
                      join pg_namespace n on n.nspname = t.schemaname
                      join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
                      where t.pubname = p.pubname and c.oid = $2) as contains
from pg_publication p
where p.pubname = $1::text
