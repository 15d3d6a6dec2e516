-- Purpose: pause triggers whose endpoint says that it is gone, and let the other nodes know.
-- Caller: queue::outcome::OutcomeWriter. Locks: the rows. Index: trigger_pkey, trigger_pause_pkey.
with paused as (
    insert into walhook.trigger_pause (trigger_id, reason)
    select id, $2 from walhook.trigger where id = any($1) and deleted_at is null
    on conflict do nothing
    returning trigger_id
)
select pg_notify('walhook', 'triggers') from paused
