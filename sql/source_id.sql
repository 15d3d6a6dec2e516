-- Purpose: a source's id in this database: its catalogue's, or the queue's.
-- Caller: queue::source::id. Locks: none. Index: source_name_key.
select id from walhook.source where name = $1
