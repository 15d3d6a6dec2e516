-- Purpose: pause a trigger on request.
-- Caller: triggers::Catalogue::pause. Locks: the row. Index: trigger_pause_pkey.
select walhook.pause($1, $2, 'paused through the API')
