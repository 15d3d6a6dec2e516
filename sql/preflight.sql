-- Purpose: everything walhook needs of a database, in one row.
-- Caller: capture::preflight. Locks: none. Index: none (system catalogues).
select current_setting('server_version_num')::int as version,
       current_setting('server_version') as version_text,
       pg_is_in_recovery() as in_recovery,
       current_setting('wal_level') as wal_level,
       current_setting('synchronous_standby_names') as standby_names,
       (select rolreplication or rolsuper from pg_roles where rolname = current_user) as may_replicate,
       -- Amazon's servers have a role in place of the attribute; null elsewhere.
       (select pg_has_role(current_user, oid, 'MEMBER') from pg_roles where rolname = 'rds_replication')
           as may_replicate_at_amazon,
       has_database_privilege(current_database(), 'CREATE') as may_create,
       to_regnamespace('walhook') is null
           or has_schema_privilege('walhook', 'USAGE, CREATE') as may_use_schema,
       current_setting('max_replication_slots')::bigint as max_slots,
       (select count(*) from pg_replication_slots) as slots,
       exists (select from pg_replication_slots where slot_name = $1) as has_slot,
       current_setting('max_wal_senders')::bigint as max_senders,
       (select count(*) from pg_stat_replication) as senders,
       current_database()::text as database,
       current_user::text as role,
       (select setting::bigint from pg_settings where name = 'wal_sender_timeout') as sender_timeout_millis,
       -- The first eight digits of a WAL file's name are its timeline. Amazon's Aurora fails on these functions while
       -- its WAL is not logical, which is to be listed with everything else that is missing.
       case when not pg_is_in_recovery() and current_setting('wal_level') = 'logical' then
           ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
       end as timeline,
       case when current_setting('wal_level') = 'logical' then
           (select system_identifier::text from pg_control_system())
       end as system_identifier
