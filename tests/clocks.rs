//! Wall clocks that are wrong: of one node, of one against another, and stepped while something waits. Everything goes
//! by the clock of Postgres, which is the tests' own.
#![cfg(target_os = "linux")]

mod support;

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use support::clock::Clock;
use support::cluster::TestDatabase;
use support::receiver::{Answer, Receiver, Request};
use support::scene::{DEADLINE, Scene};
use support::wait::eventually;
use support::walhook::{Start, Walhook};

const ITEMS: &str = "create table public.items (id int primary key, n int)";
const HOUR: i64 = 3600;
/// Of a retry, in seconds.
const INTERVAL: u64 = 2;

/// A trigger whose every event is tried once more after the interval, and one for events of type `reminder`.
async fn create_triggers(scene: &Scene) {
    let retry_conf = json!({"num_retries": 1, "interval_sec": INTERVAL});
    scene.create("items", "items", "/items", json!({"retry_conf": retry_conf})).await;
    let reminder = json!({"name": "reminder", "type": "reminder", "webhook": scene.receiver.url("/reminder")});
    scene.succeed("create_event_trigger", reminder).await;
}

/// By this clock. Nobody is taken for dead on a busy machine.
fn with_clock(start: Start, clock: &Clock) -> Start {
    start.with_clock(clock).with(&["--node-timeout", "60s"])
}

/// Which item a request tells of, and how often it was changed.
fn item(request: &Request) -> (i64, i64) {
    let row = &request.json()["event"]["data"]["new"];
    (row["id"].as_i64().expect("an id"), row["n"].as_i64().expect("a number"))
}

/// Lets the first event of each item, which has number 0, fail for good.
fn refuse_first_events(receiver: &Receiver) {
    let judge = |request: &Request| Answer::status(if item(request).1 == 0 { 400 } else { 204 });
    receiver.judge("/items", judge);
}

/// No retry comes before its interval is over, and no event before its time.
fn check_never_early(receiver: &Receiver) {
    let mut first = HashMap::new();
    for request in receiver.requests("/items") {
        let id = request.json()["id"].to_string();
        match first.get(&id) {
            None => drop(first.insert(id, request.arrived_at)),
            Some(before) => {
                let pause = request.arrived_at.duration_since(*before).expect("a clock that goes forward");
                assert!(pause >= Duration::from_secs(INTERVAL), "again after {pause:?}: {request:?}");
            }
        }
    }
    for request in receiver.requests("/reminder") {
        let at = request.json()["event"]["deliver_at"].as_str().map(str::to_owned).expect("a time");
        let due: chrono::DateTime<chrono::Utc> = at.parse().expect("a time");
        assert!(request.arrived_at >= SystemTime::from(due), "before {due}: {request:?}");
    }
}

/// Waits until a node has at least so many lanes.
async fn wait_for_lanes(scene: &Scene, node: &Walhook, lanes: i64) {
    let owned = format!("select count(*) from walhook.lanes where process_id = {}", node.process_id());
    let check = || async {
        let found = scene.count(&owned).await;
        if found >= lanes { Ok(()) } else { Err(format!("{found} lanes; its log:\n{}", node.log())) }
    };
    eventually("the lanes", DEADLINE, check).await;
}

/// Each row's first event fails twice, by then the second one is parked behind it, and is released when the first is
/// dead; the node that ends leaves what it deferred to the other one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_whose_clocks_are_hours_apart_send_everything_at_its_time() {
    const ROWS: usize = 64;
    let (ahead, behind) = (Clock::ahead_by(HOUR), Clock::ahead_by(-HOUR));
    let scene = Scene::start_with(ITEMS, |start| with_clock(start, &ahead)).await;
    let mut second = with_clock(Start::serve(&scene.database), &behind).ready().await;
    create_triggers(&scene).await;
    refuse_first_events(&scene.receiver);
    wait_for_lanes(&scene, &scene.walhook, 8).await;
    wait_for_lanes(&scene, &second, 8).await;
    scene
        .execute(&format!(
            "insert into items select id, 0 from generate_series(1, {ROWS}) id;
             update items set n = 1;
             select walhook.emit('reminder', to_jsonb(n), clock_timestamp() + interval '3 seconds')
             from generate_series(1, {ROWS}) n"
        ))
        .await;
    // Each event of the table: the first ones twice, the second ones once.
    scene.arrivals("/items", 3 * ROWS).await;
    scene.arrivals("/reminder", ROWS).await;
    check_never_early(&scene.receiver);
    let by_node = "select count(distinct l.node) from walhook.attempt a
                   join walhook.event e on e.trigger_id = a.trigger_id and e.source_id = a.source_id
                                       and e.seq = a.event_seq
                   join walhook.lanes l on l.lane = e.lane";
    scene.wait_for_count(by_node, 2).await;
    // Attempts are told by the clock of Postgres as well.
    let apart = "select count(*) from walhook.attempt where abs(extract(epoch from now() - started_at)) > 600";
    assert_eq!(scene.count(apart).await, 0);

    // What one deferred, the other one sends.
    let before = scene.receiver.requests("/items").len();
    scene
        .execute(&format!(
            "insert into items select id, 0 from generate_series(1001, 1000 + {ROWS}) id;
             update items set n = 1 where id > 1000"
        ))
        .await;
    scene.arrivals("/items", before + ROWS).await;
    second.terminate(DEADLINE).await;
    scene.arrivals("/items", before + 3 * ROWS).await;
    check_never_early(&scene.receiver);
}

/// Steps the only node's clock while a retry, a scheduled event and a parked one wait.
#[tokio::test]
async fn a_clock_that_is_stepped_by_hours_changes_nothing_for_what_waits() {
    let clock = Clock::ahead_by(0);
    let scene = Scene::start_with(ITEMS, |start| with_clock(start, &clock)).await;
    create_triggers(&scene).await;
    refuse_first_events(&scene.receiver);
    for (round, step) in [HOUR, -HOUR, 0].into_iter().enumerate() {
        scene
            .execute(&format!(
                "insert into items values ({round}, 0); update items set n = 1 where id = {round};
                 select walhook.emit('reminder', '{round}', clock_timestamp() + interval '3 seconds')"
            ))
            .await;
        scene.arrivals("/items", 3 * round + 1).await;
        clock.set_ahead_by(step);
        scene.arrivals("/items", 3 * round + 3).await;
        scene.arrivals("/reminder", round + 1).await;
        check_never_early(&scene.receiver);
    }
    let sent: Vec<Value> = scene.receiver.requests("/items").iter().map(|request| json!(item(request))).collect();
    let expected: Vec<Value> =
        (0..3).flat_map(|round| [(round, 0), (round, 0), (round, 1)]).map(|item| json!(item)).collect();
    assert_eq!(sent, expected);
}

/// An event that a caller makes by hand on a node that only serves the API, and knows no other clock than its own.
#[tokio::test]
async fn an_invoked_event_has_the_servers_time_whatever_the_nodes_clock_says() {
    let (database, clock) = (TestDatabase::create().await, Clock::ahead_by(-HOUR));
    let mut scene = Scene::in_database(database, ITEMS, |start| with_clock(start, &clock)).await;
    let retry_conf = json!({"num_retries": 9, "interval_sec": 1, "max_age_sec": 600});
    scene.create("items", "items", "/items", json!({"retry_conf": retry_conf, "enable_manual": true})).await;
    refuse_first_events(&scene.receiver);
    let api = Start::serve(&scene.database).with_clock(&clock).with(&["--only", "api"]).ready().await;
    let served = std::mem::replace(&mut scene.walhook, api);
    let args = json!({"name": "items", "payload": {"id": 1, "n": 0}});
    scene.succeed("invoke_event_trigger", args).await;
    // It is not too old to be tried again.
    scene.arrivals("/items", 3).await;
    let fresh = "select count(*) from walhook.event where abs(extract(epoch from now() - committed_at)) < 600";
    assert_eq!(scene.count(fresh).await, 1);
    drop(served);
}
