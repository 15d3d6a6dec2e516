-- Purpose: an event's place in the log. The milliseconds in its id choose the partition and its few pages.
-- Caller: triggers::Catalogue::start_replay. Locks: none. Index: event_time.
select e.seq
from walhook.event e
where e.id = $1 and e.trigger_id = $2 and e.source_id = $3
  and e.committed_at >= walhook.id_time($1) and e.committed_at < walhook.id_time($1) + interval '1 millisecond'
