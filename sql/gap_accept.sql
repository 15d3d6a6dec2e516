-- Purpose: the operator accepted what was lost (--accept-gap), up to where capture goes on.
-- Caller: queue::source::accept_gaps. Locks: the open rows. Index: none (a handful of rows).
update walhook.gap set accepted_at = now(), to_lsn = $2 where source_id = $1 and accepted_at is null
