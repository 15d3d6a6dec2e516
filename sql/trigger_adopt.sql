-- Purpose: bring the queue's copy of a catalogue to these versions; never back. Ended triggers come first, so that
--          their names are free. Where the queue is in the source's database, the copy is the catalogue and has them.
--          The API and capture adopt the same version at the same time. Two such inserts could meet in trigger_name,
--          which ON CONFLICT (id) does not cover, so they take turns by name.
-- Caller: queue::catalogue::adopt. Locks: advisory, a name; the rows. Index: trigger_pkey, trigger_name.
insert into walhook.trigger as known (id, source_id, name, relation, version, definition, deleted_at)
select a.id, $1, a.definition::json ->> 'name', null, a.version, a.definition::json, case when a.ended then now() end
from unnest($2::uuid[], $3::int[], $4::text[], $5::bool[]) a (id, version, definition, ended)
cross join (
    select count(pg_advisory_xact_lock(hashtextextended(format('walhook.trigger %s %s', $1::smallint, n.name), 0)))
    from (select distinct d::json ->> 'name' as name from unnest($4::text[]) d order by 1) n
) turn
where not exists (select from walhook.trigger k where k.id = a.id and k.version >= a.version)
order by a.ended desc, a.id
on conflict (id) do update
set version = excluded.version, definition = excluded.definition, deleted_at = excluded.deleted_at, updated_at = now()
where known.version < excluded.version
