-- Purpose: note that a migration was applied, in its own transaction.
-- Caller: postgres::migrate. Locks: none. Index: none.
insert into walhook.migration (version, name, checksum) values ($1, $2, $3)
