-- Purpose: a trigger's next events after a place in the log, bounded by rows and by bytes of text; at least one row.
--          The length of a text is known without reading it; its size on disk says little, as it may be compressed.
--          `found` counts them before the bound of bytes, so that the reader knows whether it got all. The bound is
--          found first, over the sizes alone: a window over whole rows took twice as long.
--          What is for a later time comes by way of `deferred`. Of each lane only what is after its place ($7): other
--          nodes' lanes, and what is done already, are passed over.
-- Caller: queue::backlog::read_backlog. Locks: none. Index: event_trigger, merged over the partitions.
with bound as (
    select max(seq) filter (where bytes_before < $6) as last_seq, count(*) as found
    from (
        select seq, sum(size) over (order by seq) - size as bytes_before
        from (
            select seq, coalesce(octet_length(old), 0) + coalesce(octet_length(new), 0)
                        + coalesce(octet_length(session_variables), 0) as size
            from walhook.event
            where trigger_id = $1 and source_id = $2 and seq > $3 and seq <= $4 and deliver_at is null
              and seq > ($7::bigint[])[lane + 1]
            order by seq
            limit $5
        ) sized
    ) summed
)
select seq, id, lane, operation, schema_name, table_name, commit_lsn, ordinal, xid, committed_at,
       old, new, missing_columns, old_partial, undecided, event_type, session_variables,
       backfill_id, row_hash, deliver_at, (select found from bound) as found
from walhook.event
where trigger_id = $1 and source_id = $2 and seq > $3 and seq <= (select last_seq from bound) and deliver_at is null
  and seq > ($7::bigint[])[lane + 1]
order by seq
limit $5
