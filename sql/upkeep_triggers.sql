-- Purpose: the live triggers, what their tables are called now (null where a table was dropped), and what is watched.
-- Caller: triggers::upkeep. Locks: none. Index: pg_class_oid_index (the catalogue of triggers is small).
select t.id, t.name, t.relation, t.definition::text, n.nspname::text, c.relname::text, v.watch::text
from walhook.trigger t
left join walhook.trigger_version v on v.trigger_id = t.id and v.version = t.version
left join pg_class c on c.oid = t.relation
left join pg_namespace n on n.oid = c.relnamespace
where t.source_id = $1 and t.deleted_at is null
order by t.name
