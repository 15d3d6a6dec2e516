-- Purpose: move cursors on. They never go back here.
-- Caller: queue::cursor::write. Locks: the rows that move. Index: cursor_pkey.
insert into walhook.cursor (trigger_id, source_id, lane, seq)
select c.trigger_id, t.source_id, c.lane, c.seq
from unnest($1::uuid[], $2::smallint[], $3::bigint[]) c (trigger_id, lane, seq)
join walhook.trigger t on t.id = c.trigger_id and t.deleted_at is null
on conflict (trigger_id, source_id, lane) do update set seq = excluded.seq where cursor.seq < excluded.seq
