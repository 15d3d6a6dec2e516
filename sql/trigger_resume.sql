-- Purpose: let a paused trigger go on.
-- Caller: triggers::Catalogue::resume. Locks: the row. Index: trigger_pause_pkey.
select walhook.resume($1, $2)
