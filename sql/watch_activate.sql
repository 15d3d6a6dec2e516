-- Purpose: note that capture passed these versions in the WAL.
-- Caller: queue::log::LogWriter. Locks: new rows. Index: activation_pkey.
insert into walhook.activation (trigger_id, version, commit_lsn)
select * from unnest($1::uuid[], $2::int[], $3::pg_lsn[])
on conflict do nothing
