-- Purpose: let one node at a time migrate and make publication and slot: whether it is ours, and else whose it is. It
--          is not waited for here: the server would go on waiting, and then have it, for a process that was stopped
--          meanwhile.
-- Caller: postgres::lock_setup. Locks: session advisory lock (walhook, 1). Index: none.
select pg_try_advisory_lock(hashtext('walhook'), 1),
       (select pid from pg_locks
        where locktype = 'advisory' and granted and classid = hashtext('walhook')::oid and objid = 1 and objsubid = 2
          and database = (select oid from pg_database where datname = current_database()))
