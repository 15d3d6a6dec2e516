-- Partitions of the log and of the attempts are dropped by age; `queue::retention` does it. A partition that holds
-- events that are dead or wait is replaced by one of the same name and bounds that holds only these, so whatever reads
-- `walhook.event` finds them where they always were.

-- Dead events are found without a look at the other attempts, which are nearly all.
create index if not exists attempt_dead on walhook.attempt (trigger_id, source_id, event_seq) where verdict = 'dead';

-- Deferred events of one partition. Looked at while nobody else can use the log, so it must be quick whatever waits.
create index deferred_partition on walhook.deferred (committed_at);
