-- Purpose: a new trigger.
-- Caller: triggers::Catalogue::create. Locks: none. Index: trigger_pkey, trigger_name.
insert into walhook.trigger (id, source_id, name, relation, version, definition)
values ($1, $2, $3, $4, $5, $6::text::json)
