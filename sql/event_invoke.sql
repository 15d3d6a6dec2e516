-- Purpose: log an invoked event and make it due. Both in one statement: an event of source 0 is reached through its
--          deferred row only.
-- Caller: triggers::Catalogue::invoke. Locks: none. Index: event_trigger, deferred_pkey, deferred_due.
with invoked as (
    insert into walhook.event (seq, commit_lsn, ordinal, committed_at, xid, source_id, lane, id, trigger_id, operation,
                               schema_name, table_name, old, new, event_type)
    values (nextval('walhook.manual_seq'), '0/0', 0, $1, '0', 0, $2, $3, $4, 'MANUAL', $5, $6, null, $7, $8)
    returning id, trigger_id, source_id, seq, committed_at, lane
)
insert into walhook.deferred (event_id, trigger_id, source_id, seq, committed_at, lane, reason)
select id, trigger_id, source_id, seq, committed_at, lane, 'manual' from invoked
