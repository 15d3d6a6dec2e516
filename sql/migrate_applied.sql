-- Purpose: which migrations this database has, and that they are the ones we carry.
-- Caller: postgres::migrate. Locks: none. Index: migration_pkey.
select version, checksum from walhook.migration order by version
