-- Purpose: what each trigger watched at the place where capture stands.
-- Caller: queue::catalogue::active_watches. Locks: none. Index: activation_pkey, trigger_version_pkey.
select distinct on (v.trigger_id) v.trigger_id, v.version, v.watch::text
from walhook.trigger_version v
join walhook.activation a using (trigger_id, version)
where v.source_id = $1
order by v.trigger_id, v.version desc
