-- Purpose: a committed transaction in the source's WAL, so that the slot moves on where only other databases write.
-- Caller: capture::health. Locks: none. Index: none.
select pg_logical_emit_message(true, 'walhook heartbeat', '')
