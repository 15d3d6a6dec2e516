-- Purpose: a table's name now, to lock it by.
-- Caller: capture::backfill::table::name. Locks: none. Index: pg_class_oid_index.
select n.nspname::text, c.relname::text
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.oid = $1
