-- From Postgres 18 on, UPDATE and DELETE fail on a published table whose replica identity has a generated column that
-- is not published; FULL has them all. Such a table gets its primary key as identity instead.

create or replace function walhook.keep_identity() returns event_trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
as $$
declare
    unsafe record;
begin
    for unsafe in
        select distinct member.oid::regclass as name,
               case when hidden.columns = '{}' then 'full'
                    when exists (select from pg_index i
                                 where i.indrelid = member.oid and i.indisprimary and i.indisvalid and i.indimmediate
                                   and not (i.indkey::int2[])[0:i.indnkeyatts - 1] && hidden.columns) then 'default'
               end as cure
        from (
            select command.objid as relid from pg_event_trigger_ddl_commands() command
            where command.classid = 'pg_class'::regclass
            union
            select tree.relid
            from pg_event_trigger_ddl_commands() command
            cross join lateral pg_partition_tree(command.objid) tree
            where command.classid = 'pg_class'::regclass
        ) touched
        join pg_class member on member.oid = touched.relid and member.relkind = 'r'
        cross join lateral (
            select p.oid, to_jsonb(p) ->> 'pubgencols' as generated
            from pg_publication p
            join pg_publication_rel r on r.prpubid = p.oid
            where (p.pubupdate or p.pubdelete)
              and (r.prrelid = member.oid or r.prrelid in (select relid from pg_partition_ancestors(member.oid)))
        ) publication
        cross join lateral (
            select array(select a.attnum from pg_attribute a
                         where a.attrelid = member.oid and a.attnum > 0 and not a.attisdropped
                           and (a.attgenerated = 'v'
                                or a.attgenerated = 's' and publication.generated = 'n')) as columns
        ) hidden
        where case when member.relreplident = 'f' then hidden.columns <> '{}'
                   else not exists (
                       select from pg_index i
                       where i.indrelid = member.oid and i.indisvalid and i.indimmediate
                         and not (i.indkey::int2[])[0:i.indnkeyatts - 1] && hidden.columns
                         and case member.relreplident
                                 when 'd' then i.indisprimary when 'i' then i.indisreplident else false
                             end
                   )
              end
    loop
        if unsafe.cure is null then
            raise warning 'walhook: % is published without a usable identity, so UPDATE and DELETE on it fail',
                unsafe.name
                using hint = 'Give it a primary key: it has generated columns that are not published.';
            continue;
        end if;
        begin
            execute format('alter table %s replica identity %s', unsafe.name, unsafe.cure);
        exception when others then
            raise warning 'walhook: % is published without a usable identity, so UPDATE and DELETE on it fail: %',
                unsafe.name, sqlerrm
                using hint = format('Run ALTER TABLE %s REPLICA IDENTITY %s', unsafe.name, upper(unsafe.cure));
        end;
    end loop;
end
$$;
