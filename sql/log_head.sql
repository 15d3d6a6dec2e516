-- Purpose: the log's last seq, for a delivery whose process does not capture.
-- Caller: queue::backlog::head. Locks: none. Index: event_trigger, one probe a trigger and partition.
select coalesce(max(last.seq), 0)
from walhook.trigger t
cross join lateral (
    select max(seq) as seq from walhook.event e where e.trigger_id = t.id and e.source_id = $1
) last
where t.deleted_at is null
