-- Purpose: the last seq of each source's log, for a delivery whose process does not capture it.
-- Caller: queue::backlog::heads. Locks: none. Index: event_trigger, one probe a trigger and partition.
select t.source_id, max(last.seq)
from walhook.trigger t
cross join lateral (
    select max(seq) as seq from walhook.event e where e.trigger_id = t.id and e.source_id = t.source_id
) last
where t.deleted_at is null and last.seq is not null
group by t.source_id
