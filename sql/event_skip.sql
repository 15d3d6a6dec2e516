-- Purpose: give up an event that others wait for.
-- Caller: triggers::Catalogue::skip. Locks: the row. Index: deferred_pkey.
select walhook.skip_event($1)
