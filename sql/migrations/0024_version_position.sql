-- Where in whose WAL a definition was made, so that a slot which stands behind begins with those before its place and
-- is shown the others by the stream. Null where an older release made it: then it counts as made before.
alter table walhook.trigger_version add column made_lsn pg_lsn;
alter table walhook.trigger_version add column system_identifier text;
