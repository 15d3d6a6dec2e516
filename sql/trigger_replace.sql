-- Purpose: another definition for a trigger, which keeps its id.
-- Caller: triggers::Catalogue::create. Locks: the row. Index: trigger_pkey.
update walhook.trigger
set version = $2, relation = $3, definition = $4::text::json, updated_at = now()
where id = $1
