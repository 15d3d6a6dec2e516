-- Purpose: pause triggers whose endpoint says that it is gone, and let the other nodes know. One that was resumed after
--          all of these attempts ($2, when each began) had begun goes on: they say nothing new. So does one that
--          somebody is about to resume, in a transaction that is open still: nobody waits for that. Nor, beyond the
--          session's lock_timeout, for one that somebody is about to pause for the first time.
-- Caller: queue::outcome::OutcomeWriter. Locks: the rows. Index: trigger_pkey, trigger_pause_pkey.
with gone as (
    select trigger_id, max(started_at) as started_at
    from unnest($1::uuid[], $2::timestamptz[]) g (trigger_id, started_at)
    group by trigger_id
), free as materialized (
    select trigger_id from walhook.trigger_pause where trigger_id = any($1) for update skip locked
), paused as (
    insert into walhook.trigger_pause as known (trigger_id, reason)
    select t.id, $3
    from gone
    join walhook.trigger t on t.id = gone.trigger_id and t.deleted_at is null
    where t.id in (select trigger_id from free)
       or not exists (select from walhook.trigger_pause p where p.trigger_id = t.id)
    on conflict (trigger_id) do update
    set reason = excluded.reason, since = excluded.since, resumed_at = null
    where known.resumed_at < (select gone.started_at from gone where gone.trigger_id = known.trigger_id)
    returning trigger_id
)
select pg_notify('walhook', 'triggers') from paused
