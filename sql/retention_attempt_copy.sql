-- Purpose: copy what is kept of a partition into the one that takes its place.
-- Caller: queue::retention::replace. Locks: none beyond new rows. Index: attempt_event.
insert into walhook.attempt_next
select r.*
from walhook.kept k
join walhook.attempt r on r.trigger_id = k.trigger_id and r.source_id = k.source_id and r.event_seq = k.seq
where r.started_at >= $1 and r.started_at < $2
