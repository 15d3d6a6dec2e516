-- Purpose: the catalogue of a source, ended triggers too: all of it, or the triggers that ever had one name.
-- Caller: queue::catalogue::read. Locks: none. Index: none (the catalogue is small).
select id, version, definition::text, deleted_at is not null
from walhook.trigger
where source_id = $1 and ($2::text is null or name = $2)
