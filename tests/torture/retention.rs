//! Old partitions are dropped while a round goes on, as if it were days later; so what the checks look at is kept
//! beside the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use walhook::model::Timestamp;
use walhook::postgres::{Session, Settings, connect};
use walhook::queue::{Keeper, Retention};

use crate::Dice;
use crate::damage::now;
use crate::workload::pause;

const DAY: u64 = 86_400;
const KEPT: Retention = Retention { events: Duration::from_secs(7 * DAY), dead: Duration::from_secs(30 * DAY) };

/// From now on `audit.event` and `audit.attempt` have all that is ever written to the log.
pub async fn keep_copies(sql: &Session) {
    let copies = "
        create schema audit;
        create table audit.event (like walhook.event);
        create index on audit.event (seq);
        create table audit.attempt (like walhook.attempt);
        alter table audit.attempt add column recorded_at timestamptz default clock_timestamp();
        alter table audit.attempt add column recorded_by integer default pg_backend_pid();
        create index on audit.attempt (event_id);
        create table audit.lane (lane smallint, process_id integer, at timestamptz default clock_timestamp());
        create function audit.keep_lane() returns trigger language plpgsql security definer as $$
            begin
                insert into audit.lane
                select new.lane, (select process_id from walhook.node where id = new.node);
                return null;
            end $$;
        create trigger keep after update on walhook.lane for each row execute function audit.keep_lane();
        create function audit.keep_event() returns trigger language plpgsql security definer as $$
            begin insert into audit.event values (new.*); return null; end $$;
        create function audit.keep_attempt() returns trigger language plpgsql security definer as $$
            begin insert into audit.attempt values (new.*); return null; end $$;
        create trigger keep after insert on walhook.event for each row execute function audit.keep_event();
        create trigger keep after insert on walhook.attempt for each row execute function audit.keep_attempt()";
    sql.batch_execute(copies).await.expect("copies of the log");
}

/// Rounds of retention, again and again until told to stop.
pub struct Retaining {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<i64>>,
}

impl Retaining {
    pub fn start(database: Settings, dice: Dice) -> Retaining {
        let stop = Arc::new(AtomicBool::new(false));
        Retaining { stop: stop.clone(), task: tokio::spawn(work(database, dice, stop)) }
    }

    /// Ends it; gives when rounds dropped something, in microseconds.
    pub async fn finish(self) -> Vec<i64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the rounds of retention")
    }
}

async fn work(database: Settings, mut dice: Dice, stop: Arc<AtomicBool>) -> Vec<i64> {
    let mut dropped = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if let Ok(mut session) = connect(&database, "retention").await {
            while !stop.load(Ordering::Relaxed) {
                let in_ten_days = Timestamp::now().plus_seconds(10 * DAY);
                // Postgres may be away, or the log in use.
                let Ok(round) = Keeper::new(KEPT).round(&mut session, in_ten_days).await else { break };
                let is_dropped = round.is_some_and(|round| !round.dropped.is_empty() || !round.reduced.is_empty());
                dropped.extend(is_dropped.then(now));
                pause(&mut dice, 1000).await;
            }
        }
        pause(&mut dice, 100).await;
    }
    dropped
}
