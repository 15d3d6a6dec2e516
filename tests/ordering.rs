//! Which events wait for the ones before them: `ordering` and `on_dead`. Invariant 4 of DESIGN.md.

mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use support::load::Dice;
use support::receiver::{Answer, Receiver, Request};
use support::scene::{DEADLINE, Scene};
use support::wait::eventually;
use support::walhook::Start;
use walhook::postgres::Session;

/// Row `id` was inserted with `n` 0 and is updated one by one, so `n` counts its events.
const ACCOUNTS: &str = "create table accounts (id int primary key, n int not null default 0)";

/// A receiver's path that fails for some rows, and looks at the order of what comes.
#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    /// In order of arrival: row, count, whether it was accepted.
    seen: Vec<(i64, i64, bool)>,
    /// The row's accepted events.
    accepted: HashMap<i64, i64>,
    /// What came before an earlier event of its row was accepted.
    overtaking: Vec<(i64, i64)>,
    failing: Vec<i64>,
    /// A row, and the count from which on its events fail.
    failing_from: Option<(i64, i64)>,
}

impl Ledger {
    /// Answers on this path: 500 for failing rows and where `dice` say so, else 204.
    fn on(receiver: &Receiver, path: &str, failing: &[i64], mut dice: Option<Dice>) -> Ledger {
        let ledger = Ledger::default();
        ledger.fail(failing);
        let book = ledger.clone();
        receiver.judge(path, move |request| {
            let refused = dice.as_mut().is_some_and(|dice| dice.below(4) == 0);
            if book.note(request, refused) { Answer::status(204) } else { Answer::status(500) }
        });
        ledger
    }

    fn note(&self, request: &Request, refused: bool) -> bool {
        let new = &request.json()["event"]["data"]["new"];
        let (id, n) = (new["id"].as_i64().expect("an id"), new["n"].as_i64().expect("a count"));
        let mut book = self.0.lock().expect("the book");
        let fails = book.failing.contains(&id) || book.failing_from.is_some_and(|(row, from)| row == id && n >= from);
        let accepts = !refused && !fails;
        let done = book.accepted.get(&id).copied().unwrap_or(0);
        if n > done {
            book.overtaking.push((id, n));
        } else if n == done && accepts {
            book.accepted.insert(id, n + 1);
        }
        book.seen.push((id, n, accepts));
        accepts
    }

    /// Rows that fail from now on; no others do.
    fn fail(&self, rows: &[i64]) {
        let mut book = self.0.lock().expect("the book");
        (book.failing, book.failing_from) = (rows.to_vec(), None);
    }

    /// Only this row's events fail from now on, from this count on.
    fn fail_from(&self, row: i64, count: i64) {
        let mut book = self.0.lock().expect("the book");
        (book.failing, book.failing_from) = (Vec::new(), Some((row, count)));
    }

    /// Counts of a row in the order in which they came, repeats left out.
    fn row(&self, id: i64) -> Vec<i64> {
        let mut counts: Vec<i64> = self.seen().into_iter().filter(|seen| seen.0 == id).map(|seen| seen.1).collect();
        counts.dedup();
        counts
    }

    fn seen(&self) -> Vec<(i64, i64, bool)> {
        self.0.lock().expect("the book").seen.clone()
    }

    /// Waits until so many events of each of these rows were accepted.
    async fn wait_for(&self, rows: impl Iterator<Item = i64> + Clone, events: i64) {
        let check = || async {
            let accepted = self.0.lock().expect("the book").accepted.clone();
            let missing: Vec<_> = rows.clone().filter(|id| accepted.get(id).copied().unwrap_or(0) < events).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("rows {missing:?} have fewer than {events} events")) }
        };
        eventually("accepted events", DEADLINE * 2, check).await;
    }

    /// Nothing came before its time.
    fn check_order(&self) {
        assert_eq!(self.0.lock().expect("the book").overtaking, [], "came before an earlier event was accepted");
    }
}

/// Far apart, so that nothing is tried again by itself while a test looks.
fn slow() -> Value {
    json!({"num_retries": 9, "interval_sec": 3600, "timeout_sec": 10})
}

fn no_retries() -> Value {
    json!({"num_retries": 0, "interval_sec": 1, "timeout_sec": 10})
}

/// Waits until so many events of a trigger have this status.
async fn wait_for_status(scene: &Scene, trigger: &str, status: &str, count: i64) {
    let query = format!("select count(*) from walhook.events where trigger = '{trigger}' and status = '{status}'");
    scene.wait_for_count(&query, count).await;
}

/// The event of a row and a count.
async fn event_id(scene: &Scene, trigger: &str, id: i64, n: i64) -> String {
    let query = format!(
        "select id::text from walhook.events where trigger = '{trigger}' and (new ->> 'id')::int = {id}
         and (new ->> 'n')::int = {n}"
    );
    scene.value(&query, &[]).await
}

/// Updates these rows so many times, each in a transaction of its own.
async fn update(scene: &Scene, rows: &str, times: usize) {
    for _ in 0..times {
        scene.execute(&format!("update accounts set n = n + 1 where {rows}")).await;
    }
}

/// Lets events that wait for their next attempt have it now.
async fn retry_now(scene: &Scene) {
    scene.execute("update walhook.deferred set due_at = now() where reason = 'retry'").await;
}

async fn keep_updating(session: Session, mut dice: Dice, transactions: usize) {
    for _ in 0..transactions {
        let count = 1 + dice.below(3);
        let sql = format!(
            "update public.accounts set n = n + 1 where id in (select id from public.accounts order by random() \
             limit {count} for update skip locked)"
        );
        session.batch_execute(&sql).await.expect("the application's write");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_row_come_in_order_through_failures_and_kills() {
    const ROWS: i64 = 12;
    let mut dice = Dice::from_environment();
    let scene = Scene::start(ACCOUNTS).await;
    let ledger = Ledger::on(&scene.receiver, "/t", &[], Some(dice.split()));
    let conf = json!({"num_retries": 1000, "interval_sec": 0, "timeout_sec": 10});
    scene.create("t", "accounts", "/t", json!({"retry_conf": conf})).await;
    scene.execute(&format!("insert into accounts select generate_series(1, {ROWS})")).await;
    let mut writers = Vec::new();
    for _ in 0..3 {
        writers.push(tokio::spawn(keep_updating(scene.database.connect().await, dice.split(), 150)));
    }
    let Scene { mut walhook, receiver, sql, database } = scene;
    let port = walhook.port();
    for kill in 1..=3 {
        receiver.wait_for(kill * 120, DEADLINE).await;
        walhook.kill9().await;
        walhook = Start::serve(&database).on_port(port).ready().await;
    }
    for writer in writers {
        writer.await.expect("a writer");
    }
    let scene = Scene { walhook, receiver, sql, database };
    for id in 1..=ROWS {
        let events: i64 = scene.count(&format!("select n::bigint + 1 from accounts where id = {id}")).await;
        ledger.wait_for(id..=id, events).await;
    }
    ledger.check_order();
    let delivered = "select count(*) from walhook.events where status <> 'delivered'";
    scene.wait_for_count(delivered, 0).await;
    assert_eq!(scene.count("select count(*) from walhook.deferred").await, 0);
    assert!(ledger.seen().iter().any(|seen| !seen.2), "some failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_row_holds_back_only_itself_and_not_the_cursor_also_after_a_crash() {
    let scene = Scene::start(ACCOUNTS).await;
    let ledger = Ledger::on(&scene.receiver, "/t", &[1], None);
    scene.create("t", "accounts", "/t", json!({"retry_conf": slow()})).await;
    scene.execute("insert into accounts select generate_series(1, 40)").await;
    update(&scene, "true", 3).await;
    ledger.wait_for(2..=40, 4).await;
    wait_for_status(&scene, "t", "retrying", 1).await;
    wait_for_status(&scene, "t", "parked", 3).await;
    let behind = "select count(*) from walhook.event e left join walhook.cursor c using (trigger_id, source_id, lane)
                  where c.seq is null or c.seq < e.seq";
    scene.wait_for_count(behind, 0).await;
    let status = "select parked from walhook.status where trigger = 't'";
    assert_eq!(scene.count(status).await, 3);

    let scene = scene.crash_and_restart().await;
    update(&scene, "true", 2).await;
    ledger.wait_for(2..=40, 6).await;
    wait_for_status(&scene, "t", "parked", 5).await;
    assert_eq!(ledger.row(1), [0], "the first event of the row is all that was tried");

    // Nothing that waits for an earlier event comes because somebody says that it is due.
    scene.execute("update walhook.deferred set due_at = now() where reason = 'parked'").await;
    ledger.fail(&[]);
    retry_now(&scene).await;
    ledger.wait_for(1..=1, 6).await;
    ledger.check_order();
    wait_for_status(&scene, "t", "delivered", 240).await;
    update(&scene, "id = 1", 1).await;
    ledger.wait_for(1..=1, 7).await;
    assert_eq!(ledger.row(1), [0, 1, 2, 3, 4, 5, 6]);
}

/// What waits behind a failure is not read one by one when the failure is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_with_many_events_behind_a_failure_catches_up_in_order() {
    const EVENTS: i64 = 400;
    let scene = Scene::start_with(ACCOUNTS, |start| start.env("WALHOOK_LOG", "info,walhook::delivery=debug")).await;
    let ledger = Ledger::on(&scene.receiver, "/t", &[1], None);
    scene.create("t", "accounts", "/t", json!({"retry_conf": slow()})).await;
    scene.execute("insert into accounts values (1)").await;
    wait_for_status(&scene, "t", "retrying", 1).await;
    scene
        .execute(&format!(
            "do $$ begin for i in 1..{EVENTS} loop update public.accounts set n = n + 1 where id = 1; end loop; end $$"
        ))
        .await;
    wait_for_status(&scene, "t", "parked", EVENTS).await;
    // One in the middle fails when its turn has come, and those that came along with it wait for it.
    ledger.fail_from(1, 100);
    retry_now(&scene).await;
    ledger.wait_for(1..=1, 100).await;
    wait_for_status(&scene, "t", "delivered", 100).await;
    wait_for_status(&scene, "t", "retrying", 1).await;
    assert_eq!(ledger.row(1), (0..=100).collect::<Vec<i64>>());
    ledger.fail(&[]);
    retry_now(&scene).await;
    ledger.wait_for(1..=1, EVENTS + 1).await;
    ledger.check_order();
    scene.wait_for_count("select count(*) from walhook.deferred", 0).await;
    assert_eq!(ledger.seen().len() as i64, EVENTS + 3, "two of them failed once");
    let log = scene.walhook.log();
    let reads = log.matches("deferred events were read").count();
    println!("{EVENTS} parked events in {reads} reads");
    assert!((1..=50).contains(&reads), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_order_nothing_waits_and_with_the_triggers_all_do() {
    let scene = Scene::start(ACCOUNTS).await;
    let _loose = Ledger::on(&scene.receiver, "/loose", &[1], None);
    let strict = Ledger::on(&scene.receiver, "/strict", &[1], None);
    scene.create("loose", "accounts", "/loose", json!({"ordering": "none", "retry_conf": slow()})).await;
    scene.create("strict", "accounts", "/strict", json!({"ordering": "trigger", "retry_conf": slow()})).await;
    // Row 1 comes first, and its events fail.
    for id in 1..=5 {
        scene.execute(&format!("insert into accounts values ({id})")).await;
    }
    update(&scene, "id < 3", 2).await;
    wait_for_status(&scene, "loose", "delivered", 6).await;
    wait_for_status(&scene, "loose", "retrying", 3).await;
    wait_for_status(&scene, "strict", "retrying", 1).await;
    let lanes = "select count(distinct lane) from walhook.events join walhook.event using (id)
                 where trigger = 'strict'";
    assert_eq!(scene.count(lanes).await, 1);
    let in_its_way = scene.count("select count(*) from walhook.deferred where reason = 'parked'").await;
    assert_eq!(in_its_way, 0, "what waits for the whole trigger waits in the log");

    let scene = scene.crash_and_restart().await;
    scene.execute("insert into accounts values (6)").await;
    wait_for_status(&scene, "loose", "delivered", 7).await;
    assert_eq!(strict.seen(), [(1, 0, false)]);
    strict.fail(&[]);
    retry_now(&scene).await;
    wait_for_status(&scene, "strict", "delivered", 10).await;
    let accepted: Vec<(i64, i64)> =
        strict.seen().into_iter().filter(|seen| seen.2).map(|seen| (seen.0, seen.1)).collect();
    let mut expected: Vec<(i64, i64)> = (1..=5).map(|id| (id, 0)).collect();
    expected.extend([(1, 1), (2, 1), (1, 2), (2, 2), (6, 0)]);
    assert_eq!(accepted, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_event_is_passed_by_or_holds_its_row_until_it_is_redelivered_or_skipped() {
    let scene = Scene::start(ACCOUNTS).await;
    let passing = Ledger::on(&scene.receiver, "/passing", &[1, 2, 3], None);
    let holding = Ledger::on(&scene.receiver, "/holding", &[1, 2, 3], None);
    scene.create("passing", "accounts", "/passing", json!({"retry_conf": no_retries()})).await;
    let hold = json!({"retry_conf": no_retries(), "on_dead": "hold"});
    scene.create("holding", "accounts", "/holding", hold).await;
    scene.execute("insert into accounts select generate_series(1, 4)").await;
    update(&scene, "true", 2).await;
    holding.wait_for(4..=4, 3).await;
    wait_for_status(&scene, "passing", "dead", 9).await;
    for id in 1..=3 {
        assert_eq!(passing.row(id), [0, 1, 2]);
    }
    wait_for_status(&scene, "holding", "held", 3).await;
    wait_for_status(&scene, "holding", "parked", 6).await;

    let scene = scene.crash_and_restart().await;
    update(&scene, "true", 1).await;
    holding.wait_for(4..=4, 4).await;
    wait_for_status(&scene, "holding", "parked", 9).await;
    assert_eq!(scene.count("select held from walhook.status where trigger = 'holding'").await, 3);

    // Redelivered in vain it is held again; redelivered with success it lets the others go.
    let first = event_id(&scene, "holding", 1, 0).await;
    assert!(scene.value::<bool>(&format!("select walhook.redeliver('{first}')"), &[]).await);
    let twice = format!("select count(*) from walhook.attempts where event_id = '{first}' and verdict = 'dead'");
    scene.wait_for_count(&twice, 2).await;
    wait_for_status(&scene, "holding", "held", 3).await;
    holding.fail(&[2, 3]);
    // One that is parked has its turn after the others, whoever asks for it.
    let last = event_id(&scene, "holding", 1, 3).await;
    scene.succeed("redeliver_event", json!({"event_id": last})).await;
    assert!(!scene.value::<bool>(&format!("select walhook.redeliver('{last}')"), &[]).await);
    assert_eq!(scene.count("select walhook.redeliver_dead('holding')").await, 3);
    holding.wait_for(1..=1, 4).await;
    holding.check_order();

    // Skipping counts with its transaction, and only for what is waited for.
    holding.fail(&[]);
    let second = event_id(&scene, "holding", 2, 0).await;
    let skip = format!("select walhook.skip_event('{second}')");
    scene.execute(&format!("begin; {skip}; rollback")).await;
    wait_for_status(&scene, "holding", "held", 2).await;
    assert!(scene.value::<bool>(&skip, &[]).await);
    wait_for_status(&scene, "holding", "delivered", 4 + 4 + 3).await;
    assert_eq!(holding.row(2), [0, 1, 2, 3]);
    assert!(!scene.value::<bool>(&skip, &[]).await, "it is not waited for any more");
    let third = event_id(&scene, "holding", 3, 0).await;
    scene.succeed("skip_event", json!({"event_id": third})).await;
    wait_for_status(&scene, "holding", "delivered", 4 + 4 + 3 + 3).await;
    wait_for_status(&scene, "holding", "dead", 2).await;
    let (status, answer) = scene.call("pg_skip_event", json!({"event_id": third})).await;
    assert_eq!((status, &answer["code"]), (400, &json!("not-supported")), "{answer}");
    scene.wait_for_count("select count(*) from walhook.deferred", 0).await;
    // A skipped event can still be sent, and holds up nobody.
    scene.succeed("redeliver_event", json!({"event_id": third})).await;
    wait_for_status(&scene, "holding", "delivered", 4 + 4 + 3 + 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_ordering_lets_what_waited_go_out_in_its_order() {
    let scene = Scene::start(ACCOUNTS).await;
    let ledger = Ledger::on(&scene.receiver, "/t", &[1, 2], None);
    let changes = |own: Value| {
        let mut changes = json!({"retry_conf": no_retries(), "replace": true});
        changes.as_object_mut().expect("an object").extend(own.as_object().expect("an object").clone());
        changes
    };
    scene.create("t", "accounts", "/t", json!({"retry_conf": no_retries(), "on_dead": "hold"})).await;
    scene.execute("insert into accounts select generate_series(1, 3)").await;
    update(&scene, "true", 3).await;
    ledger.wait_for(3..=3, 4).await;
    wait_for_status(&scene, "t", "held", 2).await;
    wait_for_status(&scene, "t", "parked", 6).await;
    ledger.fail(&[]);
    // Row 1 is given up when dead events hold nothing any more.
    let skipped = event_id(&scene, "t", 2, 0).await;
    scene.succeed("redeliver_event", json!({"event_id": skipped})).await;
    ledger.wait_for(2..=2, 4).await;
    scene.create("t", "accounts", "/t", changes(json!({"ordering": "none"}))).await;
    wait_for_status(&scene, "t", "delivered", 4 + 4 + 3).await;
    wait_for_status(&scene, "t", "dead", 1).await;
    assert_eq!(ledger.row(1), [0, 1, 2, 3]);
    scene.wait_for_count("select count(*) from walhook.deferred", 0).await;

    // A whole trigger that is held, and then replaced by one that keeps only the order of rows.
    ledger.fail(&[3]);
    scene.create("t", "accounts", "/t", changes(json!({"ordering": "trigger", "on_dead": "hold"}))).await;
    update(&scene, "id = 3", 1).await;
    update(&scene, "id = 2", 1).await;
    wait_for_status(&scene, "t", "held", 1).await;
    assert_eq!(ledger.row(2).len(), 4);
    scene.create("t", "accounts", "/t", changes(json!({"on_dead": "continue"}))).await;
    ledger.wait_for(2..=2, 5).await;
    wait_for_status(&scene, "t", "dead", 2).await;
    scene.succeed("delete_event_trigger", json!({"name": "t"})).await;
    assert_eq!(scene.count("select count(*) from walhook.deferred").await, 0);
}
