-- Purpose: whether one of these tables has another name by now, where the WAL ends, and whether the publication is
--          there: from Postgres 18 on a stream goes on without it, and has nothing in it.
-- Caller: capture::names, every few seconds. Locks: none. Index: pg_class_oid_index, pg_publication_pubname_index.
select exists (
           select from unnest($1::oid[], $2::text[], $3::text[]) known (relation, schema_name, table_name)
           join pg_class c on c.oid = known.relation
           join pg_namespace n on n.oid = c.relnamespace
           where n.nspname <> known.schema_name or c.relname <> known.table_name
       ) as stale,
       pg_current_wal_insert_lsn() as wal_end,
       exists (select from pg_publication where pubname = $4) as published
