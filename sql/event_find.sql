-- Purpose: whether a source has an event. $2 and $3 are the millisecond in its id: they choose the partition and its
--          few pages.
-- Caller: triggers::Catalogue redeliver and skip. Locks: none. Index: event_time.
select e.id
from walhook.event e
join walhook.trigger t on t.id = e.trigger_id and t.source_id = $4
where e.committed_at >= $2 and e.committed_at < $3 and e.id = $1
