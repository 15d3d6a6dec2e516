-- Purpose: let one caller at a time change the catalogue; kept to the end of the transaction.
-- Caller: triggers::Catalogue create and delete. Locks: transaction advisory lock (walhook, 2). Index: none.
select pg_advisory_xact_lock(hashtext('walhook'), 2)
