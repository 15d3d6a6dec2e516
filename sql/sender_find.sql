-- Purpose: whether our walsender lives, and how far it sent.
-- Caller: capture::session. Locks: none. Index: none (shared memory).
select s.sent_lsn
from pg_stat_replication s
join pg_replication_slots r on r.active_pid = s.pid
where r.slot_name = $1
