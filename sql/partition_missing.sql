-- Purpose: which of these tables of schema walhook do not exist.
-- Caller: queue::ensure_partitions. Locks: none. Index: pg_class_relname_nsp_index.
select wanted.name
from unnest($1::text[]) as wanted(name)
where to_regclass('walhook.' || wanted.name) is null
