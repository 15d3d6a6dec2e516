-- Purpose: end a trigger; the row stays, so that the log can still name it.
-- Caller: triggers::Catalogue::delete. Locks: the row. Index: trigger_pkey.
update walhook.trigger set version = $2, updated_at = now(), deleted_at = now() where id = $1
