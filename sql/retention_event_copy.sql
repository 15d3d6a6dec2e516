-- Purpose: copy what is kept of a partition into the one that takes its place.
-- Caller: queue::retention::replace. Locks: none beyond new rows. Index: event_trigger.
insert into walhook.event_next
select r.*
from walhook.kept k
join walhook.event r on r.trigger_id = k.trigger_id and r.source_id = k.source_id and r.seq = k.seq
where r.committed_at >= $1 and r.committed_at < $2
