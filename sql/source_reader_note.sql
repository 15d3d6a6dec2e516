-- Purpose: note which node reads a source's slot now.
-- Caller: queue::source::note_reader, which owns the source. Locks: one row. Index: source_reader_pkey.
insert into walhook.source_reader (source_id, node_id) values ($1, $2)
on conflict (source_id) do update set node_id = excluded.node_id
