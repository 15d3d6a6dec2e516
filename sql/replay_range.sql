-- Purpose: the stretch of a trigger's log that a replay is about, and how many events it has now. Invoked events are
--          not part of it: they have no place in the order of commits.
-- Caller: triggers::Catalogue::start_replay. Locks: none. Index: event_trigger, the partitions from $3 on.
select coalesce(min(e.seq), 1) as first_seq, coalesce(max(e.seq), 0) as last_seq, count(*) as events
from walhook.event e
where e.trigger_id = $1 and e.source_id = $2
  and e.committed_at >= coalesce($3::text::timestamptz, '-infinity')
  and e.commit_lsn >= coalesce($4::text::pg_lsn, '0/0')
  and e.seq >= coalesce($5::bigint, 0) and e.seq <= coalesce($6::bigint, 9223372036854775807)
