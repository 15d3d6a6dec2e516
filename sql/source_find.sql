-- Purpose: a source as its capture was registered, if it was: then it has a place from which to go on.
-- Caller: queue::source::find. Locks: none. Index: source_name_key, progress_pkey.
select s.id, s.slot, s.publication, s.system_identifier
from walhook.source s
join walhook.progress p on p.source_id = s.id
where s.name = $1
