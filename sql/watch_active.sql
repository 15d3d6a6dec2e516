-- Purpose: what each trigger watched at the place where capture stands.
-- Caller: queue::catalogue::active_watches. Locks: none. Index: none (as many rows as there were definitions).
select distinct on (trigger_id) trigger_id, version, watch::text
from walhook.activation
where source_id = $1
order by trigger_id, version desc
