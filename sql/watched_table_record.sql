-- Purpose: note what was changed on a table. What an earlier trigger noted stays: it is the older state.
-- Caller: triggers::published::record. Locks: the row. Index: watched_table_pkey.
insert into walhook.watched_table as known
    (source_id, relation, previous_identity, previous_index, added_to_publication)
values ($1, $2, $3::text::"char", $4, $5)
on conflict (source_id, relation) do update
set previous_identity = coalesce(known.previous_identity, excluded.previous_identity),
    previous_index = case when known.previous_identity is null then excluded.previous_index
                          else known.previous_index end,
    added_to_publication = known.added_to_publication or excluded.added_to_publication
