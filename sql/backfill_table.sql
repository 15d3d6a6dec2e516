-- Purpose: a table as the stream describes it (its published columns, their types, what is in the identity), the unique
--          index in whose order its rows can be read, this transaction's snapshot, and the state of a backfill ($3).
--          The index' columns must be in the WAL with each change: the primary key, or the index that is the identity;
--          under FULL any one.
-- Caller: capture::backfill::table::read. Locks: none.
-- Index: pg_class_oid_index, pg_attribute_relid_attnum_index, pg_index_indrelid_index.
select n.nspname::text, c.relname::text, c.relkind::text, c.relreplident::text, pg_current_snapshot()::text as snapshot,
       (select state from walhook.backfill where id = $3) as state,
       (select sum(nullif(leaf.reltuples, -1))::bigint
        from pg_class leaf
        where leaf.relkind = 'r'
          and leaf.oid in (select c.oid union select relid from pg_partition_tree(c.oid))) as estimated_rows,
       columns.names, columns.types, columns.lengths, columns.identity,
       key.names as key_names, key.types as key_types,
       key.equal as key_equal, key.not_less as key_not_less, key.greater as key_greater
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
cross join lateral (
    select array_agg(a.attname::text order by a.attnum) as names, array_agg(a.atttypid order by a.attnum) as types,
           array_agg(a.attlen order by a.attnum) as lengths,
           array_agg(c.relreplident = 'f' or exists (
               select from pg_index i
               cross join unnest(i.indkey::int2[]) with ordinality as member (attnum, place)
               where i.indrelid = c.oid and i.indisvalid and member.place <= i.indnkeyatts and member.attnum = a.attnum
                 and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else false end
           ) order by a.attnum) as identity
    from pg_attribute a
    left join pg_publication p on p.pubname = $2::text
    where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
      -- Generated columns can be published from Postgres 18 on; to_jsonb reads that where there is such a column.
      and (a.attgenerated = '' or (a.attgenerated = 's' and to_jsonb(p) ->> 'pubgencols' = 's'))
) columns
left join lateral (
    select array_agg(a.attname::text order by part.place) as names,
           array_agg(format_type(a.atttypid, -1) order by part.place) as types,
           array_agg(comparison.equal order by part.place) as equal,
           array_agg(comparison.not_less order by part.place) as not_less,
           array_agg(comparison.greater order by part.place) as greater
    from pg_index i
    join pg_class x on x.oid = i.indexrelid
    join pg_am am on am.oid = x.relam and am.amname = 'btree'
    cross join unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[])
        with ordinality as part (attnum, class, collation_id, place)
    left join pg_attribute a
        on a.attrelid = c.oid and a.attnum = part.attnum and a.attnotnull and a.attcollation = part.collation_id
       and a.attgenerated = ''
    left join pg_opclass o on o.oid = part.class and o.opcdefault
    left join lateral (
        select max(operator) filter (where member.amopstrategy = 3) as equal,
               max(operator) filter (where member.amopstrategy = 4) as not_less,
               max(operator) filter (where member.amopstrategy = 5) as greater
        from pg_amop member
        join pg_operator op on op.oid = member.amopopr
        join pg_namespace place on place.oid = op.oprnamespace
        cross join format('operator(%I.%s)', place.nspname, op.oprname) as operator
        where member.amopfamily = o.opcfamily and member.amoplefttype = o.opcintype
          and member.amoprighttype = o.opcintype
    ) comparison on true
    where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null
      and i.indexprs is null and part.place <= i.indnkeyatts
      and case c.relreplident
              when 'f' then true when 'd' then i.indisprimary when 'i' then i.indisreplident else false
          end
    group by i.indexrelid, i.indisprimary, i.indnkeyatts
    having count(a.attname) = i.indnkeyatts and count(comparison.greater) = i.indnkeyatts
    order by i.indisprimary desc, i.indnkeyatts, i.indexrelid
    limit 1
) key on true
where c.oid = $1
