-- Purpose: in which characters the database keeps its text.
-- Caller: queue::outcome::OutcomeWriter. Locks: none. Index: none.
select current_setting('server_encoding')
