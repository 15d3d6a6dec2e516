-- Purpose: the replica identity of a table and of all partitions under it; the identity of the leaf is what counts.
-- Caller: triggers::published::read. Locks: pg_partition_tree takes ACCESS SHARE.
-- Index: pg_class_oid_index, pg_index_indrelid_index.
select c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relreplident::text,
       (select x.relname::text
        from pg_index i join pg_class x on x.oid = i.indexrelid
        where i.indrelid = c.oid and i.indisreplident) as identity_index,
       c.relreplident = 'f' or exists (
           select from pg_index i
           where i.indrelid = c.oid and i.indisvalid and i.indimmediate
             and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else false end
       ) as usable
from (select $1::oid as relid union select relid from pg_partition_tree($1)) as tree
join pg_class c on c.oid = tree.relid
join pg_namespace n on n.oid = c.relnamespace
order by c.oid = $1 desc, n.nspname, c.relname
