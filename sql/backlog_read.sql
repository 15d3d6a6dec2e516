-- Purpose: a trigger's next events after a place in the log, bounded by rows and by stored bytes; at least one row.
--          `found` counts them before the bound of bytes, so that the reader knows whether it got all.
-- Caller: queue::backlog::read. Locks: none. Index: event_trigger, merged over the partitions.
select seq, id, lane, operation, schema_name, table_name, commit_lsn, ordinal, xid::text::bigint, committed_at,
       old::text, new::text, missing_columns, found
from (
    select *, count(*) over () as found,
           sum(coalesce(pg_column_size(old), 0) + coalesce(pg_column_size(new), 0)) over (order by seq)
           - (coalesce(pg_column_size(old), 0) + coalesce(pg_column_size(new), 0)) as bytes_before
    from (
        select * from walhook.event
        where trigger_id = $1 and source_id = $2 and seq > $3 and seq <= $4
        order by seq
        limit $5
    ) next
) bounded
where bytes_before < $6
order by seq
