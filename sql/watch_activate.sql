-- Purpose: note that capture passed these versions in the WAL.
-- Caller: queue::catalogue::activate. Locks: new rows. Index: activation_pkey.
insert into walhook.activation (source_id, trigger_id, version, commit_lsn, watch)
select $1, a.trigger_id, a.version, a.commit_lsn, a.watch::json
from unnest($2::uuid[], $3::int[], $4::pg_lsn[], $5::text[]) a (trigger_id, version, commit_lsn, watch)
on conflict do nothing
