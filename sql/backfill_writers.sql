-- Purpose: the transactions that may have written to a table or its partitions and are not over yet. A transaction
--          keeps its locks until after every new snapshot sees it, also while its commit is in the WAL already and
--          waits for a standby. Prepared ones have no process.
-- Caller: capture::backfill::reader. Locks: pg_partition_tree takes ACCESS SHARE. Index: none.
select coalesce(array_agg(distinct l.virtualtransaction), '{}') as writers,
       (select state from walhook.backfill where id = $2) as state
from pg_locks l
where l.locktype = 'relation' and l.granted
  and l.database = (select oid from pg_database where datname = current_database())
  and l.mode in ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  and l.relation in (select $1::oid union select relid from pg_partition_tree($1))
