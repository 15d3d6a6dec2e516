-- Purpose: the names of the partitions of the log or of the attempts.
-- Caller: queue::retention::partition_days. Locks: none. Index: pg_inherits_parent_index.
select c.relname::text
from pg_inherits i
join pg_class c on c.oid = i.inhrelid
where i.inhparent = to_regclass('walhook.' || $1::text)
order by 1
