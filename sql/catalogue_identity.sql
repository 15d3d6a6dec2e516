-- Purpose: the replica identity of a table and of all partitions under it; the identity of the leaf is what counts.
-- Caller: triggers::published::read. Locks: pg_partition_tree takes ACCESS SHARE.
-- Index: pg_class_oid_index, pg_index_indrelid_index, pg_attribute_relid_attnum_index.
select c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, c.relreplident::text,
       (select x.relname::text
        from pg_index i join pg_class x on x.oid = i.indexrelid
        where i.indrelid = c.oid and i.indisreplident) as identity_index,
       case when c.relreplident = 'f' then hidden.columns = '{}'
            else exists (
                select from pg_index i
                where i.indrelid = c.oid and i.indisvalid and i.indimmediate
                  and not (i.indkey::int2[])[0:i.indnkeyatts - 1] && hidden.columns
                  and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else false end)
       end as usable,
       hidden.columns = '{}' as full_works,
       exists (select from pg_index i
               where i.indrelid = c.oid and i.indisprimary and i.indisvalid and i.indimmediate
                 and not (i.indkey::int2[])[0:i.indnkeyatts - 1] && hidden.columns) as key_works
from (select $1::oid as relid union select relid from pg_partition_tree($1)) as tree
join pg_class c on c.oid = tree.relid
join pg_namespace n on n.oid = c.relnamespace
-- From Postgres 18 on, UPDATE and DELETE fail where the identity has a generated column that is not published.
cross join lateral (
    select array(select a.attnum
                 from pg_attribute a, pg_publication p
                 where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and p.pubname = $2::text
                   and (a.attgenerated = 'v' or a.attgenerated = 's' and to_jsonb(p) ->> 'pubgencols' = 'n')) as columns
) as hidden
order by c.oid = $1 desc, n.nspname, c.relname
