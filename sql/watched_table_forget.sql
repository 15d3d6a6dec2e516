-- Purpose: nothing is left to undo on this table.
-- Caller: triggers::Catalogue::delete. Locks: the row. Index: watched_table_pkey.
delete from walhook.watched_table where source_id = $1 and relation = $2
