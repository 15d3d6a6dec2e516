-- Purpose: what the publication publishes, and whether the table is in it (by name, by schema, or as one of all).
--          Also whether partitions of the table get an identity when they are made: by the primary key, or by an event
--          trigger. And the table's generated columns that are not published: all of them before Postgres 18.
-- Caller: triggers::published::read. Locks: none.
-- Index: pg_publication_pubname_index, pg_publication_rel_prrelid_prpubid_index, pg_index_indrelid_index,
--        pg_attribute_relid_attnum_index.
select p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot,
       -- Row filters and column lists came with Postgres 15; to_jsonb reads them where there are such columns.
       exists (select from pg_publication_rel r
               where r.prpubid = p.oid and r.prrelid = $2
                 and (to_jsonb(r) ->> 'prqual' is not null or to_jsonb(r) ->> 'prattrs' is not null)) as partial,
       -- Before 15 a stream goes on as it began with a partition that is attached or detached, until the publication
       -- changes.
       current_setting('server_version_num')::int < 150000 as forgets_partitions,
       p.puballtables
           or exists (select from pg_publication_rel r where r.prpubid = p.oid and r.prrelid = $2)
           or exists (select
                      from pg_publication_tables t
                      join pg_namespace n on n.nspname = t.schemaname
                      join pg_class c on c.relnamespace = n.oid and c.relname = t.tablename
                      where t.pubname = p.pubname and c.oid = $2) as contains,
       exists (select from pg_index i
               where i.indrelid = $2 and i.indisprimary and i.indimmediate)
           or exists (select
                      from pg_event_trigger e
                      join pg_proc f on f.oid = e.evtfoid
                      join pg_namespace n on n.oid = f.pronamespace
                      where n.nspname = 'walhook' and f.proname = 'keep_identity' and e.evtevent = 'ddl_command_end'
                        and e.evtenabled in ('O', 'A')
                        and (e.evttags is null or e.evttags @> array['CREATE TABLE', 'ALTER TABLE'])) as guarded,
       array(select a.attname::text from pg_attribute a
             where a.attrelid = $2 and a.attnum > 0 and not a.attisdropped
               and (a.attgenerated = 'v'
                    or a.attgenerated = 's' and to_jsonb(p) ->> 'pubgencols' is distinct from 's')) as hidden
from pg_publication p
where p.pubname = $1::text
