-- Purpose: which events after their lane's place ($4, none is before $3) are dealt with: attempted, so that they are
--          done or deferred, because both are recorded together; or parked behind their row without an attempt. Other
--          nodes may be far ahead in lanes that are theirs.
-- Caller: queue::backlog::dealt_with_after. Locks: none. Index: attempt_event, event_trigger, deferred_row.
select e.seq
from walhook.attempt a
join walhook.event e on e.trigger_id = a.trigger_id and e.source_id = a.source_id and e.seq = a.event_seq
where a.trigger_id = $1 and a.source_id = $2 and a.event_seq > $3
  and e.trigger_id = $1 and e.source_id = $2 and e.seq > $3 and e.seq > ($4::bigint[])[e.lane + 1]
union all
select seq from walhook.deferred
where trigger_id = $1 and source_id = $2 and seq > $3 and seq > ($4::bigint[])[lane + 1] and row_hash is not null
