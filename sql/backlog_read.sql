-- Purpose: a trigger's next events after a place in the log. It is read in portions and in one pass: the reader ends it
--          where it has enough bytes. To find that place here first took twice as many pages.
--          What is for a later time comes by way of `deferred`. Of each lane only what is after its place ($6): other
--          nodes' lanes, and what is done already, are passed over.
-- Caller: queue::backlog::read_backlog. Locks: none. Index: event_trigger, merged over the partitions.
select seq, id, lane, operation, schema_name, table_name, commit_lsn, ordinal, xid, committed_at,
       old, new, missing_columns, old_partial, undecided, event_type, session_variables,
       backfill_id, row_hash, deliver_at
from walhook.event
where trigger_id = $1 and source_id = $2 and seq > $3 and seq <= $4 and deliver_at is null
  and seq > ($6::bigint[])[lane + 1]
order by seq
limit $5
