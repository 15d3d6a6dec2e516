-- What a trigger cannot do, and keeping tables safe that walhook published.

-- Live triggers that do not work as they were defined; a trigger without a row does. Written every few seconds where it
-- changed, by the node that captures.
create table walhook.trigger_problem (
    trigger_id uuid primary key,
    reason     text not null,
    since      timestamptz not null default now()
);

create view walhook.trigger_status as
select t.name as trigger, t.id as trigger_id,
       case when p.trigger_id is null then 'active' else 'degraded' end as status, p.reason, p.since
from walhook.trigger t
left join walhook.trigger_problem p on p.trigger_id = t.id
where t.deleted_at is null;

-- Gives a table a replica identity that has none but is published, in the very transaction that made it so: a partition
-- that was made or attached, a primary key that was dropped. Without it, every UPDATE and DELETE on that table fails.
-- Nothing calls this until an event trigger does, which only a superuser can make; walhook says when one is needed.
create function walhook.keep_identity() returns event_trigger
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
as $$
declare
    unsafe regclass;
begin
    for unsafe in
        select distinct member.oid::regclass
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
        where member.relreplident <> 'f'
          and not exists (
              select from pg_index i
              where i.indrelid = member.oid and i.indisvalid and i.indimmediate
                and case member.relreplident
                        when 'd' then i.indisprimary when 'i' then i.indisreplident else false
                    end
          )
          and exists (
              select from pg_publication p
              join pg_publication_rel r on r.prpubid = p.oid
              where (p.pubupdate or p.pubdelete)
                and (r.prrelid = member.oid or r.prrelid in (select relid from pg_partition_ancestors(member.oid)))
          )
    loop
        begin
            execute format('alter table %s replica identity full', unsafe);
        exception when others then
            raise warning 'walhook: % is published without a replica identity, so UPDATE and DELETE on it fail: %',
                unsafe, sqlerrm
                using hint = format('run ALTER TABLE %s REPLICA IDENTITY FULL', unsafe);
        end;
    end loop;
end
$$;
