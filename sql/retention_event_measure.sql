-- Purpose: how many rows of a partition are kept, and whether it has more than twice as many: only then is it worth
--          replacing. Not all of its rows are counted for that.
-- Caller: queue::retention::replace. Locks: none. Index: event_trigger.
with known as (
    select count(*) as rows
    from walhook.kept k
    join walhook.event r on r.trigger_id = k.trigger_id and r.source_id = k.source_id and r.seq = k.seq
    where r.committed_at >= $1 and r.committed_at < $2
)
select rows, rows = 0 or 2 * rows < (
    select count(*) from (
        select from walhook.event where committed_at >= $1 and committed_at < $2 limit (select 2 * rows + 1 from known)
    ) few
) as worthwhile
from known
