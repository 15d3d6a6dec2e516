-- Purpose: of triggers whose dead events hold nothing up any more, let go those that do; delivery finds them.
-- Caller: queue::catalogue::adopt. Locks: the rows. Index: deferred_due.
update walhook.deferred d set reason = 'skipped', due_at = now()
from walhook.trigger t
where t.id = any($1) and t.definition ->> 'on_dead' is distinct from 'hold' and d.trigger_id = t.id
  and d.reason = 'held'
