-- Purpose: tables that walhook changed and that no live trigger watches, neither itself nor the table it is a
--          partition of.
-- Caller: triggers::Catalogue::delete. Locks: none. Index: watched_table_pkey, pg_class_oid_index.
select w.relation, n.nspname::text, c.relname::text, w.previous_identity::text, w.previous_index,
       w.added_to_publication and exists (
           select from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
           where p.pubname = $2::text and r.prrelid = w.relation
       ) as to_be_dropped,
       w.previous_identity is not null and c.relreplident = 'f' as to_be_restored
from walhook.watched_table w
left join pg_class c on c.oid = w.relation
left join pg_namespace n on n.oid = c.relnamespace
where w.source_id = $1
  and not exists (
      select from walhook.trigger t
      where t.source_id = $1 and t.deleted_at is null
        and (t.relation = w.relation or t.relation in (select pg_partition_ancestors(w.relation)))
  )
order by w.added_to_publication desc, w.relation
