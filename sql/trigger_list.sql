-- Purpose: every live trigger with its definition, and whether it is paused.
-- Caller: queue::catalogue::triggers. Locks: none. Index: none (the catalogue is small).
select t.id, t.source_id, t.version, t.definition::text, p.trigger_id is not null as paused
from walhook.trigger t
left join walhook.trigger_pause p on p.trigger_id = t.id and p.resumed_at is null
where t.deleted_at is null
