-- Purpose: due events of the triggers that have room, each trigger's own oldest first: none waits behind another.
--          Events that wait for something else than a time are never due, whatever was written over it by hand.
-- Caller: queue::deferred::due. Locks: none. Index: deferred_due, then event_trigger in the event's partition.
select d.trigger_id, d.source_id, d.seq, d.number, d.due_at,
       e.id, e.lane, e.operation, e.schema_name, e.table_name, e.commit_lsn, e.ordinal, e.xid,
       e.committed_at,
       e.old, e.new, e.missing_columns, e.old_partial, e.undecided, e.event_type, e.session_variables,
       e.backfill_id, e.row_hash, e.deliver_at, d.replay_id, d.row_hash as holds, d.reason = 'skipped' as skipped
from unnest($1::uuid[], $2::bigint[]) wanted (trigger_id, room)
cross join lateral (
    select * from walhook.deferred
    where deferred.trigger_id = wanted.trigger_id and due_at <= $3 and event_id <> all($4::uuid[])
      and reason not in ('parked', 'held')
    order by due_at
    limit wanted.room
) d
join walhook.event e
  on e.committed_at = d.committed_at and e.trigger_id = d.trigger_id and e.source_id = d.source_id and e.seq = d.seq
order by d.due_at
