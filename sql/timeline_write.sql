-- Purpose: the timeline that is captured from now on.
-- Caller: queue::slot_status. Locks: one row, where it changes. Index: slot_status_pkey.
insert into walhook.slot_status (source_id, timeline) values ($1, $2)
on conflict (source_id) do update set timeline = excluded.timeline where slot_status.timeline <> excluded.timeline
