-- Purpose: drop what waits for a trigger that ends.
-- Caller: triggers::Catalogue::delete. Locks: the rows. Index: deferred_due.
delete from walhook.deferred where trigger_id = $1
