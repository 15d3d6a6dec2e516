-- Purpose: what row_to_json needs to know of types ($1) and of all they are made of; and whether this statement's
-- snapshot sees a transaction ($2, null for none), because a commit is in the WAL before others can see it.
-- Caller: capture::types. Locks: none. Index: pg_type_oid_index, pg_attribute_relid_attnum_index.
with recursive part (oid) as (
    select unnest($1::oid[])
    union
    select inside.oid
    from part
    join pg_type t on t.oid = part.oid
    cross join lateral (
        select t.typbasetype where t.typtype = 'd'
        union all
        select t.typelem where t.typelem <> 0 and t.typsubscript = 'array_subscript_handler'::regproc
        union all
        select a.atttypid from pg_attribute a
        where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
    ) inside (oid)
), place as (
    -- The transaction's full number is the one nearest to the snapshot's end; 2147483648 is half of 32 bits.
    select pg_current_snapshot() as snapshot,
           e.ending - (((e.ending - $2::bigint + 2147483648) & 4294967295) - 2147483648) as xid
    from (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as ending) e
)
select coalesce(pg_visible_in_snapshot(p.xid::text::xid8, p.snapshot), true) as visible,
       t.oid,
       format_type(t.oid, null) as name,
       case
           when t.typtype = 'd' then 'domain'
           when t.typelem <> 0 and t.typsubscript = 'array_subscript_handler'::regproc then 'array'
           when t.typtype = 'c' then 'composite'
           when c.castfunc is null then 'text'
           when t.typname = 'hstore' and x.extname = 'hstore' then 'hstore'
           else 'cast'
       end as shape,
       case when t.typtype = 'd' then t.typbasetype else t.typelem end as inner_type,
       (select e.typdelim::text from pg_type e where e.oid = t.typelem) as delimiter,
       array(select a.attname::text from pg_attribute a
             where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped order by a.attnum) as field_names,
       array(select a.atttypid from pg_attribute a
             where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped order by a.attnum) as field_types,
       (select count(*) filter (where a.attisdropped) = 0 from pg_attribute a
        where a.attrelid = t.typrelid and a.attnum > 0) as only_grew
from place p
left join (part join pg_type t on t.oid = part.oid) on true
left join pg_cast c on c.castsource = t.oid and c.casttarget = 'json'::regtype and c.castmethod = 'f' and t.oid >= 16384
left join pg_depend d on d.classid = 'pg_type'::regclass and d.objid = t.oid and d.deptype = 'e'
                     and d.refclassid = 'pg_extension'::regclass
left join pg_extension x on x.oid = d.refobjid
