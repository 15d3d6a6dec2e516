-- Purpose: how far capture came: the end of the log or the idle row, whichever is further; and the log's last seq.
-- Caller: queue::source::progress. Locks: none. Index: event_trigger, one probe a trigger and partition.
select greatest(
           (select lsn from walhook.progress where source_id = $1),
           (select max(last.progress_lsn)
            from walhook.trigger t
            cross join lateral (
                select e.progress_lsn from walhook.event e
                where e.trigger_id = t.id and e.source_id = $1 and e.seq = (
                    select max(seq) from walhook.event m where m.trigger_id = t.id and m.source_id = $1
                )
            ) last
            where t.source_id = $1)
       ) as lsn,
       coalesce((select max(last.seq)
                 from walhook.trigger t
                 cross join lateral (
                     select max(seq) as seq from walhook.event m where m.trigger_id = t.id and m.source_id = $1
                 ) last
                 where t.source_id = $1), 0) as seq
