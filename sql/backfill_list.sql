-- Purpose: a source's backfills, of one trigger ($2, null for all) or one of them ($3), the newest first.
-- Caller: triggers::Catalogue::backfills. Locks: none. Index: none; a row a request.
select b.id, coalesce(t.name, '') as trigger, b.condition, b.state, b.estimated_rows, b.error,
       (extract(epoch from b.requested_at) * 1000000)::bigint as requested_micros,
       (extract(epoch from b.ended_at) * 1000000)::bigint as ended_micros
from walhook.backfill b
left join walhook.trigger t on t.id = b.trigger_id
where b.source_id = $1 and ($2::text is null or t.name = $2) and ($3::uuid is null or b.id = $3)
order by b.requested_at desc, b.id
limit 1000
