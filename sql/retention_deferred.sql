-- Purpose: whether an event of these days was deferred since the ones to be kept were noted: it was redelivered.
-- Caller: queue::retention::replace. Locks: none. Index: deferred_partition.
select exists (
    select from walhook.deferred d
    where d.committed_at >= $1 and d.committed_at < $2
      and not exists (
          select from walhook.kept k
          where k.trigger_id = d.trigger_id and k.source_id = d.source_id and k.seq = d.seq
      )
)
