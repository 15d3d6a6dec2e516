-- Purpose: what is wrong with which trigger, in place of what was known before.
-- Caller: triggers::upkeep, when it changed. Locks: the rows. Index: trigger_problem_pkey.
with found as (
    select * from unnest($2::uuid[], $3::text[]) as found(trigger_id, reason)
), solved as (
    delete from walhook.trigger_problem p
    using walhook.trigger t
    where t.id = p.trigger_id and t.source_id = $1 and p.trigger_id not in (select trigger_id from found)
)
insert into walhook.trigger_problem as known (trigger_id, reason)
select trigger_id, reason from found
on conflict (trigger_id) do update set reason = excluded.reason, since = now() where known.reason <> excluded.reason
