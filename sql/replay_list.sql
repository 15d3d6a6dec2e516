-- Purpose: a source's replays, of one trigger ($2, null for all) or one of them ($3), the newest first.
-- Caller: triggers::Catalogue::replays. Locks: none. Index: none; a row a request.
select r.id, coalesce(r.trigger, '') as trigger, r.state, r.events, r.queued, r.skipped, r.waiting, r.rate, r.error,
       (extract(epoch from r.requested_at) * 1000000)::bigint as requested_micros,
       (extract(epoch from r.ended_at) * 1000000)::bigint as ended_micros
from walhook.replays r
where r.source = $1 and ($2::text is null or r.trigger = $2) and ($3::uuid is null or r.id = $3)
order by r.requested_at desc, r.id
limit 1000
