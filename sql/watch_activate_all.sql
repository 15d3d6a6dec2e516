-- Purpose: a new slot starts behind every definition made so far, so all of them are in force from its start.
-- Caller: queue::catalogue::activate_all. Locks: new rows. Index: activation_pkey.
insert into walhook.activation (trigger_id, version, commit_lsn)
select trigger_id, version, $2 from walhook.trigger_version where source_id = $1
on conflict do nothing
