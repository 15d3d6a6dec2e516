-- Purpose: append events to the log.
-- Caller: queue::log::LogWriter. Locks: none beyond new rows. Index: event_trigger, event_time are kept.
copy walhook.event (seq, commit_lsn, ordinal, committed_at, xid, source_id, lane, id, trigger_id, operation,
                    schema_name, table_name, old, new, missing_columns, old_partial, undecided, event_type,
                    session_variables, backfill_id, row_hash, deliver_at, progress_lsn) from stdin (format binary)
