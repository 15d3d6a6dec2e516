-- Purpose: register a source with the place its slot starts from; what was captured before counts no more.
-- Caller: queue::source::register. Locks: new rows. Index: source_name_key.
with added as (
    insert into walhook.source (name, slot, publication, system_identifier)
    values ($1, $2, $3, $4)
    on conflict (name) do update
        set slot = excluded.slot, publication = excluded.publication, system_identifier = excluded.system_identifier
    returning id
)
insert into walhook.progress (source_id, lsn, after_seq)
select id, $5, $6 from added
on conflict (source_id) do update set lsn = excluded.lsn, after_seq = excluded.after_seq, updated_at = now()
returning source_id
