-- Purpose: what kind of table this name is, its columns, and its primary key's columns in the key's order.
-- Caller: triggers::table::find. Locks: none. Index: pg_class_relname_nsp_index, pg_attribute_relid_attnum_index.
select c.oid,
       c.relkind::text,
       c.relpersistence::text,
       (c.oid < 16384 or n.nspname in ('pg_catalog', 'information_schema', 'pg_toast')) as system,
       (select p.inhparent::regclass::text from pg_inherits p where p.inhrelid = c.oid and c.relispartition) as root,
       array(select a.attname::text from pg_attribute a
             where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped order by a.attnum) as columns,
       array(select a.attname::text
             from pg_index i
             cross join unnest(i.indkey) with ordinality as key(attnum, place)
             join pg_attribute a on a.attrelid = i.indrelid and a.attnum = key.attnum
             where i.indrelid = c.oid and i.indisprimary and key.place <= i.indnkeyatts
             order by key.place) as key_columns
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1::text and c.relname = $2::text and c.relkind in ('r', 'p', 'v', 'm', 'f')
