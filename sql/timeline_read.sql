-- Purpose: the timeline that was captured so far.
-- Caller: queue::slot_status. Locks: none. Index: slot_status_pkey.
select timeline from walhook.slot_status where source_id = $1
