-- Purpose: drop the cursors of a trigger that ends.
-- Caller: triggers::Catalogue::delete. Locks: the rows. Index: cursor_pkey.
delete from walhook.cursor where trigger_id = $1
