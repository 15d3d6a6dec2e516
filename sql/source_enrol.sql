-- Purpose: the source's id in its own catalogue. A source that is captured into this very database is left as it is:
--          what it was registered with tells whether anything was lost.
-- Caller: queue::source::enrol. Locks: a new row, or the source's. Index: source_name_key.
insert into walhook.source as known (name, slot, publication, system_identifier)
values ($1, $2, $3, $4)
on conflict (name) do update
set slot = excluded.slot, publication = excluded.publication, system_identifier = excluded.system_identifier
where not exists (select from walhook.progress p where p.source_id = known.id)
