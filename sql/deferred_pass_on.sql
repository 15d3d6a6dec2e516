-- Purpose: of triggers whose dead events hold nothing up any more, let go those that do; delivery finds them. One that
--          somebody redelivers or skips just now, in a transaction that is open still, is let go by that.
-- Caller: queue::catalogue::adopt. Locks: the rows. Index: deferred_due, deferred_pkey.
update walhook.deferred d set reason = 'skipped', due_at = now()
where d.event_id in (
    select held.event_id
    from walhook.deferred held
    join walhook.trigger t on t.id = held.trigger_id
    where held.trigger_id = any($1) and t.definition ->> 'on_dead' is distinct from 'hold' and held.reason = 'held'
    for update of held skip locked
)
