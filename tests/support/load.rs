//! Writers that work on a table like an application, and the check that each of their changes has exactly one event.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::JoinHandle;
use walhook::postgres::{Session, Settings, connect};

use super::cluster::TestDatabase;
use super::receiver::Receiver;
use super::wait::eventually;

/// The table of truth: each row was inserted with `n` 0 and updated `n` times, one by one. So the table itself says
/// which events must be there, also after commits whose answer was lost.
pub const LEDGER: &str = "create table public.ledger \
                          (id bigint generated always as identity primary key, n int not null default 0, padding text)";

/// A generator of the xorshift kind, so that a failure can be repeated from its seed.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// From `WALHOOK_TEST_SEED`, or else from the clock. The seed is printed.
    pub fn from_environment() -> Dice {
        let given = std::env::var("WALHOOK_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_nanos() as u64;
        let seed: u64 = given.unwrap_or(now | 1);
        println!("WALHOOK_TEST_SEED={seed}");
        Dice(seed.max(1))
    }

    /// The seed that gives the numbers from here on.
    pub fn seed(&self) -> u64 {
        self.0
    }

    /// From 0 up to, not including, `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    /// Whether the one case of `cases` came up.
    pub fn one_in(&mut self, cases: u64) -> bool {
        self.below(cases) == 0
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }

    /// Another order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for at in (1..all.len()).rev() {
            all.swap(at, self.below(at as u64 + 1) as usize);
        }
    }

    /// One that goes its own way: from the same state it would throw what this one throws.
    pub fn split(&mut self) -> Dice {
        Dice(self.below(u64::MAX).wrapping_mul(0x9e37_79b9_7f4a_7c15).max(1))
    }
}

/// Writers at work until they are told to stop.
pub struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Starts writers, each with a session of its own. They connect again when they lose it.
    pub fn start(database: &TestDatabase, count: usize, dice: &mut Dice) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let task = |_| tokio::spawn(write(database.settings(), dice.split(), stop.clone()));
        Writers { tasks: (0..count).map(task).collect(), stop }
    }

    /// Waits until all ended their last transaction.
    pub async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a writer");
        }
    }
}

async fn write(settings: Settings, mut dice: Dice, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(session) = connect(&settings, "load").await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        while !stop.load(Ordering::Relaxed) && session.batch_execute(&transaction(&mut dice)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(8)).await;
        }
    }
}

/// Single rows, many rows, updates of rows that are there, and all of it rolled back.
fn transaction(dice: &mut Dice) -> String {
    let rows = dice.below(12) + 2;
    let padding = "x".repeat(dice.below(300) as usize);
    let insert = |rows| {
        format!("insert into public.ledger (padding) select '{padding}' from pg_catalog.generate_series(1, {rows});")
    };
    let back = dice.below(5000);
    // Several in one transaction; rows that others hold are left to them.
    let update = format!(
        "update public.ledger set n = n + 1 where id in (select id from public.ledger where id >= \
         (select max(id) from public.ledger) - {back} order by id limit {} for update skip locked);",
        dice.below(4) + 1
    );
    match dice.below(6) {
        0 | 1 => insert(1),
        2 => format!("begin; {} commit;", insert(rows)),
        3 => format!("begin; {} {update} {update} rollback;", insert(rows)),
        4 => format!("begin; {} savepoint a; {} rollback to savepoint a; {update} commit;", insert(1), insert(rows)),
        _ => update,
    }
}

/// What is wrong between the ledger and the log: each wanted event that is not there, each that is there too often.
const DIFFERENCE: &str = "
    with wanted as (select l.id, v as n from public.ledger l cross join generate_series(0, l.n) v),
         found as (select (new::json ->> 'id')::bigint as id, (new::json ->> 'n')::int as n from walhook.event)
    select (select count(*) from (select * from wanted except all select * from found) lost) as lost,
           (select count(*) from (select * from found except all select * from wanted) extra) as extra,
           (select count(*) - count(distinct (commit_lsn, ordinal, trigger_id)) from walhook.event) as repeated,
           (select count(*) - count(distinct id) from walhook.event) as repeated_ids";

/// Waits until the log holds exactly one event for each change in the ledger.
pub async fn check_log(session: &Session, deadline: Duration) {
    let check = || async {
        let row = session.query_one(DIFFERENCE, &[]).await.map_err(|error| error.to_string())?;
        let names = ["lost", "extra", "repeated", "repeated_ids"];
        let counts = names.map(|name| row.get::<_, i64>(name));
        // More is never mended by waiting.
        assert_eq!(counts[1..], [0, 0, 0], "{names:?} = {counts:?}");
        if counts[0] == 0 { Ok(()) } else { Err(format!("{names:?} = {counts:?}")) }
    };
    eventually("each change has one event", deadline, check).await;
}

/// Waits until the receiver got every event of the log; none may come that is not in it. Gives how many came again.
pub async fn check_delivered(session: &Session, receiver: &Receiver, deadline: Duration) -> usize {
    let rows = session.query("select id::text from walhook.event", &[]).await.expect("the log");
    let wanted: HashSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let mut missing = wanted.clone();
    let mut seen = 0;
    let all = receiver
        .wait_until(deadline, |all| {
            for request in &all[seen..] {
                let id = request.json()["id"].as_str().unwrap_or_default().to_owned();
                assert!(wanted.contains(&id), "an event that is not in the log: {request:?}");
                missing.remove(&id);
            }
            seen = all.len();
            missing.is_empty()
        })
        .await;
    all.len() - wanted.len()
}

/// Looks again and again whether the slot was acknowledged further than the queue is durable. Ends with the session.
pub fn watch_acknowledged(session: Session, slot: String) -> JoinHandle<u32> {
    tokio::spawn(async move {
        let mut looks = 0;
        loop {
            // The acknowledged position first: what is durable only grows.
            let confirmed = "select confirmed_flush_lsn from pg_replication_slots where slot_name = $1";
            let Ok(Some(row)) = session.query_opt(confirmed, &[&slot]).await else { return looks };
            let confirmed: Option<tokio_postgres::types::PgLsn> = row.get(0);
            let durable = "select $1 <= greatest((select max(lsn) from walhook.progress),
                                                 (select max(progress_lsn) from walhook.event)),
                           (select max(lsn) from walhook.progress), (select max(progress_lsn) from walhook.event)";
            let Ok(row) = session.query_one(durable, &[&confirmed]).await else { return looks };
            assert_ne!(row.get::<_, Option<bool>>(0), Some(false), "acknowledged {confirmed:?}, durable {row:?}");
            looks += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
}
