-- Purpose: bring the queue's copy of a catalogue to these versions; never back. Ended triggers come first, so that
--          their names are free. Where the queue is in the source's database, the copy is the catalogue and has them.
-- Caller: queue::catalogue::adopt. Locks: the rows. Index: trigger_pkey, trigger_name.
insert into walhook.trigger as known (id, source_id, name, relation, version, definition, deleted_at)
select a.id, $1, a.definition::json ->> 'name', null, a.version, a.definition::json, case when a.ended then now() end
from unnest($2::uuid[], $3::int[], $4::text[], $5::bool[]) a (id, version, definition, ended)
where not exists (select from walhook.trigger k where k.id = a.id and k.version >= a.version)
order by a.ended desc, a.id
on conflict (id) do update
set version = excluded.version, definition = excluded.definition, deleted_at = excluded.deleted_at, updated_at = now()
where known.version < excluded.version
