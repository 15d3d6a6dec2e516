-- Purpose: one writer of a source's log at a time, also while an older one's last transaction is still open.
-- Caller: queue::source::try_capture_lock. Locks: session advisory lock (walhook capture, source). Index: none.
select pg_try_advisory_lock(hashtext('walhook capture'), $1)
