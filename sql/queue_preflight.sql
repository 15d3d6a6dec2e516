-- Purpose: everything walhook needs of the queue's database, in one row.
-- Caller: queue::preflight. Locks: none. Index: none (system catalogues).
select current_setting('server_version_num')::int as version,
       current_setting('server_version') as version_text,
       pg_is_in_recovery() as in_recovery,
       has_database_privilege(current_database(), 'CREATE') as may_create,
       to_regnamespace('walhook') is null
           or has_schema_privilege('walhook', 'USAGE, CREATE') as may_use_schema,
       current_setting('server_encoding') as encoding,
       current_database()::text as database,
       current_user::text as role
