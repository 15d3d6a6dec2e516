-- Purpose: events that somebody gave up are dead. They wait no more, and their last attempt says so: by it they are
--          found to be sent again, and kept for as long as dead ones are. What was asked for again meanwhile stays.
-- Caller: queue::outcome::OutcomeWriter. Locks: the rows. Index: deferred_pkey, attempt_event.
with given_up as (
    delete from walhook.deferred where event_id = any($1) and reason = 'skipped'
    returning trigger_id, source_id, seq
)
update walhook.attempt a set verdict = 'dead'
from given_up g
where a.trigger_id = g.trigger_id and a.source_id = g.source_id and a.event_seq = g.seq
  and a.verdict in ('retry', 'paused')
  and not exists (
      select from walhook.attempt later
      where later.trigger_id = g.trigger_id and later.source_id = g.source_id and later.event_seq = g.seq
        and later.started_at > a.started_at
  )
