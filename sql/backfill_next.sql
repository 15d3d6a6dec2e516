-- Purpose: the backfill to work on: one at a time, the first that was asked for.
-- Caller: queue::backfill::next_backfill. Locks: none. Index: backfill_open.
select b.id, b.trigger_id, t.name, t.relation, t.deleted_at is null as live, b.condition, b.key_columns
from walhook.backfill b
join walhook.trigger t on t.id = b.trigger_id
where b.source_id = $1 and b.state in ('waiting', 'running')
order by b.requested_at, b.id
limit 1
