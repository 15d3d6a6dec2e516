//! Looks at the slot while a round goes on, and the wait for its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::types::PgLsn;
use walhook::postgres::{Session, Settings, connect};

use crate::damage::Damage;
use crate::repairs::{Repairs, decide};
use crate::support::scene::DEADLINE;
use crate::support::wait::eventually;

/// A look at the slot, and at the queue after it.
pub struct Look {
    pub acknowledged: u64,
    /// The last event's place in the log.
    pub last_seq: i64,
}

/// Looks again and again until told to stop.
pub struct Watching {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<Look>>,
}

impl Watching {
    /// Ends it; gives all looks.
    pub async fn finish(self) -> Vec<Look> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the looks at the slot")
    }
}

/// Starts looking at a slot. Goes on when Postgres comes back.
pub fn watch_slot(database: Settings, slot: String) -> Watching {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        let mut looks = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            if let Ok(session) = connect(&database, "application").await {
                while !stopped.load(Ordering::Relaxed) {
                    let Ok(look) = look(&session, &slot).await else { break };
                    looks.extend(look);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        looks
    });
    Watching { stop, task }
}

/// The slot first: the queue only grows.
async fn look(session: &Session, slot: &str) -> Result<Option<Look>, tokio_postgres::Error> {
    let acknowledged = "select confirmed_flush_lsn from pg_replication_slots where slot_name = $1";
    let acknowledged: Option<PgLsn> = session.query_one(acknowledged, &[&slot]).await?.get(0);
    let last = "select coalesce(max(seq), 0) from audit.event";
    let last_seq = session.query_one(last, &[]).await?.get(0);
    Ok(acknowledged.map(|acknowledged| Look { acknowledged: acknowledged.into(), last_seq }))
}

/// Waits until capture has passed everything and no event of a living trigger is pending. None stays paused or held.
pub async fn wait_until_done(sql: &Session, repairs: &Repairs) {
    let resume = "select walhook.resume(trigger) from walhook.trigger_status where status = 'paused'";
    let last = "insert into public.item (id) values (1000000) returning mark";
    let mark: i64 = sql.query_one(last, &[]).await.expect("the last change of all").get(0);
    let pending = format!(
        "select (select count(*) from walhook.deferred d join walhook.trigger t on t.id = d.trigger_id
                 where t.deleted_at is null),
                (select count(*) from audit.event e join walhook.trigger t on t.id = e.trigger_id
                 where t.deleted_at is null and not exists (
                     select from audit.attempt a where a.event_id = e.id)),
                (select count(*) from walhook.replay r join walhook.trigger t on t.id = r.trigger_id
                 where r.state = 'running' and t.deleted_at is null),
                (select count(*) from audit.event e where new like '%\"mark\":{mark},%')"
    );
    let end = Instant::now() + 2 * DEADLINE;
    eventually("everything to be captured and delivered", 2 * DEADLINE, || async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        // Again: a last answer of 410 may still be under way.
        sql.query(resume, &[]).await.expect("all triggers resumed");
        decide(sql, repairs).await;
        let row = sql.query_one(&pending, &[]).await.expect("what is pending");
        let [deferred, not_attempted, replays, passed] = [0, 1, 2, 3].map(|column| row.get::<_, i64>(column));
        match (deferred, not_attempted, replays, passed) {
            (0, 0, 0, 1..) => Ok(()),
            _ if end.saturating_duration_since(Instant::now()) < Duration::from_secs(10) => {
                Err(tell_pending(sql).await)
            }
            _ => Err(vec![format!(
                "{deferred} deferred, {not_attempted} not attempted, {replays} replays, {passed} passed"
            )]),
        }
    })
    .await;
    let gaps: i64 = sql.query_one("select count(*) from walhook.gap", &[]).await.expect("a count").get(0);
    assert_eq!(gaps, 0, "recorded gaps");
}

/// What waits, and where, for whoever has to find out why.
async fn tell_pending(sql: &Session) -> Vec<String> {
    let pending = "
        select format('%s (%s %s), lane %s of process %s, cursor at %s: %s', t.name, t.definition ->> 'ordering',
                      t.definition ->> 'on_dead', p.lane, l.process_id, c.seq, p.what)
        from (select trigger_id, lane, format('%s deferred: %s, row %s, first %s, due in %s', count(*), reason,
                                              row_hash, min(seq), nullif(min(due_at), 'infinity') - now()) as what
              from walhook.deferred group by trigger_id, lane, reason, row_hash
              union all
              select e.trigger_id, e.lane, format('%s without an attempt, first %s', count(*), min(e.seq))
              from audit.event e
              where not exists (select from audit.attempt a where a.event_id = e.id)
              group by e.trigger_id, e.lane) p
        join walhook.trigger t on t.id = p.trigger_id and t.deleted_at is null
        join walhook.lanes l on l.lane = p.lane
        left join walhook.cursor c on c.trigger_id = p.trigger_id and c.lane = p.lane
        union all
        select format('replay of %s: %s of %s events queued', t.name, r.queued, r.events)
        from walhook.replay r join walhook.trigger t on t.id = r.trigger_id and t.deleted_at is null
        where r.state = 'running'
        union all
        select format('lane %s: process %s since %s', lane, process_id, since) from walhook.lanes
        union all
        select format('slot of %s: confirmed %s of %s; its walsender: %s', s.active_pid, s.confirmed_flush_lsn,
                      pg_current_wal_flush_lsn(), (select row_to_json(r) from pg_stat_replication r
                                                   where r.pid = s.active_pid))
        from pg_replication_slots s where s.database = current_database()
        union all
        select format('the log ends with %s', row_to_json(e)::text) from (
            select seq, committed_at, commit_lsn, left(new, 200) as new from audit.event order by seq desc limit 3
        ) e
        union all
        select format('published: %s', string_agg(schemaname || '.' || tablename, ', ')) from pg_publication_tables
        union all
        select format('%s: %s', pid, left(query, 200)) from pg_stat_activity
        where datname = current_database() and state <> 'idle' and pid <> pg_backend_pid()
        order by 1";
    let rows = sql.query(pending, &[]).await.expect("what is pending");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Who got lanes, and when, for a failure's text.
pub async fn note_lanes(sql: &Session, damage: &mut Damage) {
    let got = "select (extract(epoch from max(at)) * 1000000)::bigint, process_id, array_agg(lane order by lane)::text
               from audit.lane group by process_id, date_trunc('second', at)";
    for row in sql.query(got, &[]).await.expect("the lanes' owners") {
        let (process, lanes): (Option<i32>, String) = (row.get(1), row.get(2));
        damage.note_at(row.get(0), format!("process {process:?} got lanes {lanes}"));
    }
}
