-- Purpose: in which characters the database keeps its text.
-- Caller: queue::encoding::has_all_characters. Locks: none. Index: none.
select current_setting('server_encoding')
