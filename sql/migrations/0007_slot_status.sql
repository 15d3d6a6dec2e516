-- How a source's slot is, and on which timeline it was captured so far.

-- Written by the node that captures the source: when something changed, else once a minute.
create table walhook.slot_status (
    source_id          smallint primary key references walhook.source,
    timeline           integer not null,     -- another one later means a standby was promoted or a backup restored
    checked_at         timestamptz,
    wal_status         text,                 -- as pg_replication_slots has it
    confirmed_lsn      pg_lsn,
    retained_bytes     bigint,               -- WAL that the server keeps for the slot
    max_retained_bytes bigint,               -- max_slot_wal_keep_size; null where there is no limit
    warning            text                  -- what to do before the slot is lost; null while all is well
) with (fillfactor = 50);

-- For operators: each source, how its slot is, and the gap that keeps it from being captured, if there is one.
create view walhook.source_status as
select s.name as source, s.slot, s.publication, t.timeline, t.wal_status, t.confirmed_lsn, t.retained_bytes,
       t.max_retained_bytes, t.warning, t.checked_at,
       (select g.reason from walhook.gap g where g.source_id = s.id and g.accepted_at is null order by g.id limit 1)
           as open_gap
from walhook.source s
left join walhook.slot_status t on t.source_id = s.id;
