-- Purpose: a live trigger by name. The row lock keeps a deletion waiting until what is done with it is committed.
-- Caller: triggers::Catalogue create, delete and invoke. Locks: FOR SHARE on the row. Index: trigger_name.
select t.id, t.version, t.relation, t.definition::text,
       exists (select from pg_class c where c.oid = t.relation) as relation_exists
from walhook.trigger t
where t.source_id = $1 and t.name = $2 and t.deleted_at is null
for share
