-- Purpose: the tables whose replica identity walhook has set; what they have now, somebody chose after that.
-- Caller: triggers::upkeep. Locks: none. Index: watched_table_pkey.
select relation from walhook.watched_table where source_id = $1 and previous_identity is not null
