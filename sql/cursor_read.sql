-- Purpose: how far each lane of each trigger was worked off.
-- Caller: queue::cursor::read. Locks: none. Index: none (read once, at take-over).
select trigger_id, lane, seq from walhook.cursor
