-- Purpose: how far capture came: the end of the log or the idle row, whichever is further; and the log's last seq. What
-- was logged before a gap that was accepted says nothing of the slot that is read now.
-- Caller: queue::source::progress. Locks: none. Index: progress_pkey; event_trigger, one probe a trigger and partition.
with start as (
    select coalesce(max(lsn), '0/0') as lsn, coalesce(max(after_seq), 0) as seq
    from walhook.progress where source_id = $1
),
ends as (
    select last.seq, last.progress_lsn
    from walhook.trigger t
    cross join lateral (
        select e.seq, e.progress_lsn from walhook.event e
        where e.trigger_id = t.id and e.source_id = $1 order by e.seq desc limit 1
    ) last
    where t.source_id = $1
)
select greatest(start.lsn, (select max(progress_lsn) from ends where ends.seq > start.seq)) as lsn,
       greatest(start.seq, (select max(seq) from ends)) as seq
from start
