//! Random triggers, transactions, receivers and faults, against a model that knows from what Postgres committed which
//! events each trigger must get: invariants 1 to 4 of DESIGN.md.
//!
//! `WALHOOK_TEST_SEED` repeats the dice of a round, `WALHOOK_TEST_MINUTES` goes on with further rounds for so long
//! (`make torture`). What the dice decide comes again with the seed; how the processes meet in time does not.
//! In half of the rounds each node has a wall clock of its own; the steady ones are the machine's.

mod damage;
mod faults;
mod found;
mod ledger;
mod model;
mod order;
mod repairs;
mod retention;
#[path = "../support/mod.rs"]
mod support;
mod watch;
mod workload;

use std::sync::Arc;
use std::time::{Duration, Instant};

use damage::Damage;
use faults::{Fault, Nodes};
use found::Found;
use ledger::Ledger;
use model::{Asked, CUSTOM, Judge, TABLES};
use repairs::Repairs;
use retention::Retaining;
use support::cluster::TestDatabase;
use support::load::Dice;
use support::receiver::Receiver;
use support::scene::DEADLINE;
use support::wait::eventually;
use walhook::postgres::cluster::{Cluster, Options};
use watch::watch_slot;
use workload::{DDL, Registry, Workload, ask, lasting};

/// Of all kinds of faults, how many a round has.
const FAULTS: usize = 6;
/// Between two faults up to so many requests come in, unless that takes too long: then the fault meets a start.
const REQUESTS_BETWEEN: u64 = 400;
const LONGEST_BETWEEN: Duration = Duration::from_millis(2500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_trigger_gets_what_the_model_says_whatever_breaks() {
    let minutes = std::env::var("WALHOOK_TEST_MINUTES").ok().and_then(|minutes| minutes.parse().ok()).unwrap_or(0);
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let settings = [("deadlock_timeout".to_owned(), "50ms".to_owned())].to_vec();
    // As short as for the other tests, so that a killed walhook's slot is soon free.
    let wal_sender_timeout = Some(Duration::from_secs(5));
    let options = Options { wal_sender_timeout, settings, ..Options::default() };
    let mut cluster = Cluster::start(options).await.expect("a cluster");
    let mut dice = Dice::from_environment();
    let mut ledger = Ledger::default();
    loop {
        let next = dice.clone().split();
        ledger.add(&round(&mut cluster, dice).await);
        println!("{ledger}");
        if Instant::now() >= end {
            return;
        }
        dice = next;
        println!("WALHOOK_TEST_SEED={}", dice.seed());
    }
}

/// In a database of its own: work and faults at once, then quiet until all is done, then the checks.
async fn round(cluster: &mut Cluster, mut dice: Dice) -> Ledger {
    let database = TestDatabase::create_in(cluster).await;
    let sql = database.connect().await;
    sql.batch_execute(DDL).await.expect("the tables");
    let judge = Judge::appoint(&sql, database.name()).await;
    let receiver = Arc::new(Receiver::start().await);
    let mut damage = Damage::default();
    let mut nodes = Nodes::start(&database, &mut dice, &mut damage).await;
    let registry = Registry::default();
    for subject in TABLES.into_iter().chain([CUSTOM]) {
        let asked = ask(&registry, |number| Asked::all(number, &lasting(subject), subject, &mut dice));
        create(&nodes.apis()[0], &asked, &receiver).await;
    }
    retention::keep_copies(&sql).await;
    let retaining = dice.one_in(2).then(|| Retaining::start(database.settings(), dice.split()));
    let watching = watch_slot(database.settings(), database.slot());
    let repairs = Repairs::default();
    let workload = Workload::start(&database.settings(), nodes.apis(), &receiver, &registry, &repairs, &mut dice);

    let mut faults = Fault::ALL;
    dice.shuffle(&mut faults);
    for fault in faults.into_iter().take(FAULTS) {
        let enough = receiver.count() + dice.below(REQUESTS_BETWEEN) as usize;
        let arrived = || async { if receiver.count() >= enough { Ok(()) } else { Err(()) } };
        drop(tokio::time::timeout(LONGEST_BETWEEN, eventually("requests", DEADLINE, arrived)).await);
        nodes.strike(fault, (cluster, &database), &mut dice, &mut damage).await;
    }
    workload.finish(&receiver, &registry).await;
    nodes.recover(&mut damage).await;

    let sql = database.connect().await;
    watch::wait_until_done(&sql, &repairs).await;
    let looks = watching.finish().await;
    if let Some(retaining) = retaining {
        damage.dropped(retaining.finish().await);
    }
    watch::note_lanes(&sql, &mut damage).await;
    let asked = registry.lock().expect("the registry").clone();
    let truth = judge.truth(&sql, &asked).await;
    let found = Found::read(&sql, receiver.all()).await;
    ledger::check(&truth, &found, &repairs, &looks, &damage)
}

async fn create(api: &str, asked: &Asked, receiver: &Receiver) {
    let args = asked.arguments(&receiver.url(&asked.path()), false);
    let call = serde_json::json!({"type": "create_event_trigger", "args": args});
    let answer = reqwest::Client::new().post(format!("{api}/v1/query")).json(&call).send().await.expect("an answer");
    assert!(answer.status().is_success(), "{call}: {:?}", answer.text().await);
}
