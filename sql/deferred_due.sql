-- Purpose: due events of the triggers that have room, in our lanes ($7), each trigger's own oldest first. At
--          most $2 of each and $3 bytes of row text, passed by one event: its length is known without reading it,
--          while its size on disk says little where it is compressed. Behind them come those that are
--          parked in the same rows, $4 of each trigger, in their order, so that a row goes on without a fetch for each
--          of its events; they stay parked until their turn has come.
--          Events that wait for something else than a time are never due, whatever was written over it by hand.
-- Caller: queue::deferred::due. Locks: none. Index: deferred_due, deferred_row, then event_trigger in the event's
--         partition, an event at a time whatever the planner expects.
with wanted as (
    select * from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[]) w (trigger_id, room, bytes, following)
), due as (
    select d.*, wanted.bytes, wanted.following,
           count(*) filter (where d.row_hash is not null) over (partition by d.trigger_id) as rows
    from wanted
    cross join lateral (
        select *, xmin::text::bigint as version from walhook.deferred
        where deferred.trigger_id = wanted.trigger_id and due_at <= $5 and event_id <> all($6::uuid[])
          and reason not in ('parked', 'held') and lane = any($7::smallint[])
        order by due_at
        limit wanted.room
    ) d
), fetched as (
    select trigger_id, source_id, seq, committed_at, number, due_at, replay_id, row_hash, reason, version, bytes,
           false as follows
    from due
    union all
    select p.trigger_id, p.source_id, p.seq, p.committed_at, p.number, p.due_at, p.replay_id, p.row_hash, p.reason,
           p.version, due.bytes, true
    from due
    cross join lateral (
        select *, xmin::text::bigint as version from walhook.deferred
        where deferred.trigger_id = due.trigger_id and deferred.row_hash = due.row_hash and deferred.seq > due.seq
          and deferred.reason = 'parked' and deferred.event_id <> all($6::uuid[])
          and deferred.lane = any($7::smallint[])
        order by deferred.seq
        limit due.following / greatest(due.rows, 1)
    ) p
    where due.row_hash is not null and due.reason <> 'skipped'
)
select trigger_id, source_id, seq, number, due_at,
       id, lane, operation, schema_name, table_name, commit_lsn, ordinal, xid, committed_at,
       old, new, missing_columns, old_partial, undecided, event_type, session_variables,
       backfill_id, row_hash, deliver_at, replay_id, holds, skipped, follows, version
from (
    select d.trigger_id, d.source_id, d.seq, d.number, d.due_at, d.replay_id, d.row_hash as holds, d.version,
           d.reason = 'skipped' as skipped, d.follows, d.bytes,
           e.id, e.lane, e.operation, e.schema_name, e.table_name, e.commit_lsn, e.ordinal, e.xid, e.committed_at,
           e.old, e.new, e.missing_columns, e.old_partial, e.undecided, e.event_type, e.session_variables,
           e.backfill_id, e.row_hash, e.deliver_at,
           sum(e.size) over (partition by d.trigger_id order by d.follows, d.due_at, d.seq) - e.size as bytes_before
    from fetched d
    cross join lateral (
        select *, coalesce(octet_length(old), 0) + coalesce(octet_length(new), 0)
                  + coalesce(octet_length(session_variables), 0) as size
        from walhook.event
        where event.committed_at = d.committed_at and event.trigger_id = d.trigger_id
          and event.source_id = d.source_id and event.seq = d.seq
        limit 1
    ) e
) sized
where bytes_before < bytes
order by follows, due_at, seq
