//! Several nodes on one queue.

mod support;

use std::time::Instant;

use serde_json::json;
use support::cluster::TestDatabase;
use support::load::{Dice, LEDGER, Writers, check_delivered, check_log};
use support::proxy::{Proxy, Weather};
use support::receiver::{Answer, Receiver, Script};
use support::scene::{DEADLINE, Scene};
use support::wait::eventually;
use support::walhook::{Start, Walhook};

const ITEMS: &str = "create table public.items (id bigint generated always as identity primary key, name text)";
const EVENTS: &str = "select count(*) from walhook.event";
/// How many lanes the process with this number has, by the locks of its session.
const LANES: &str = "select count(*) from walhook.lanes where process_id = ";

async fn lanes_of(scene: &Scene, node: &Walhook) -> i64 {
    scene.count(&format!("{LANES} {}", node.process_id())).await
}

/// Waits until a node has so many lanes; gives how long that took.
async fn wait_for_lanes(scene: &Scene, node: &Walhook, lanes: i64) {
    let began = Instant::now();
    let check = || async {
        let found = lanes_of(scene, node).await;
        if found == lanes { Ok(()) } else { Err(format!("{found} lanes; its log:\n{}", node.log())) }
    };
    eventually("the lanes", DEADLINE, check).await;
    println!("node {} has {lanes} lanes after {:?}", node.process_id(), began.elapsed());
}

/// Requests are under way while their node sleeps, so long that others take its lanes. What it then hears of them is
/// not worth recording any more.
#[tokio::test]
async fn a_node_that_was_paused_loses_its_lanes_and_records_nothing_when_it_wakes() {
    let mut scene = Scene::start(ITEMS).await;
    wait_for_lanes(&scene, &scene.walhook, 16).await;
    let other = Start::serve(&scene.database).ready().await;
    scene.receiver.on("/t", Script::first(20, Answer::hang()));
    let retries = json!({"retry_conf": {"num_retries": 5, "interval_sec": 1, "timeout_sec": 10}});
    scene.create("t", "items", "/t", retries).await;
    scene.execute("insert into items (name) select 'a' from generate_series(1, 20)").await;
    scene.arrivals("/t", 20).await;
    scene.walhook.signal("STOP");
    wait_for_lanes(&scene, &other, 16).await;
    scene.execute("insert into items (name) select 'b' from generate_series(1, 20)").await;
    let delivered = "select count(*) from walhook.attempts where verdict = 'delivered'";
    scene.wait_for_count(delivered, 40).await;
    scene.walhook.signal("CONT");
    let joined = "select count(*) from walhook.node";
    scene.wait_for_count(joined, 2).await;
    // Its requests' time was over when it woke.
    scene.execute("insert into items (name) values ('c')").await;
    scene.wait_for_count(delivered, 41).await;
    assert_eq!(scene.count("select count(*) from walhook.attempt").await, 41);
    assert_eq!(scene.receiver.count(), 20 + 41);
}

/// A node through a proxy that passes nothing any more, and one that reaches Postgres.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_is_replaced_and_joins_again() {
    let database = TestDatabase::create().await;
    let proxy = Proxy::start(database.port()).await;
    let sql = database.connect().await;
    sql.batch_execute(&format!("set search_path = public; {LEDGER}")).await.expect("the table");
    let walhook = Start::serve_through(&database, proxy.port()).ready().await;
    let scene = Scene { walhook, receiver: Receiver::start().await, sql, database };
    wait_for_lanes(&scene, &scene.walhook, 16).await;
    scene.create("ledger", "ledger", "/ledger", json!({})).await;
    let other = Start::serve(&scene.database).ready().await;
    let writers = Writers::start(&scene.database, 2, &mut Dice::from_environment());
    scene.arrivals("/ledger", 100).await;
    proxy.set(Weather::Frozen);
    wait_for_lanes(&scene, &other, 16).await;
    // It captures as well.
    scene.arrivals("/ledger", scene.receiver.count() + 100).await;
    assert!(other.log().contains("ended the stream of the node that read the slot before"), "{}", other.log());
    proxy.set(Weather::Fair);
    scene.wait_for_count("select count(*) from walhook.node", 2).await;
    writers.finish().await;
    check_log(&scene.sql, DEADLINE).await;
    check_delivered(&scene.sql, &scene.receiver, DEADLINE).await;
    // Each event was recorded as delivered by one node only.
    let twice = "select count(*) - count(distinct event_id) from walhook.attempt";
    scene.wait_for_count("select count(distinct event_id) from walhook.attempt", scene.count(EVENTS).await).await;
    assert_eq!(scene.count(twice).await, 0);
}

/// One after the other is stopped and started again while events come in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_delivers_nothing_twice() {
    let mut scene = Scene::start(LEDGER).await;
    scene.create("ledger", "ledger", "/ledger", json!({})).await;
    let mut other = Start::serve(&scene.database).ready().await;
    let writers = Writers::start(&scene.database, 3, &mut Dice::from_environment());
    for _ in 0..2 {
        scene.arrivals("/ledger", scene.receiver.count() + 100).await;
        assert!(scene.walhook.terminate(DEADLINE).await.success(), "{}", scene.walhook.log());
        wait_for_lanes(&scene, &other, 16).await;
        scene.arrivals("/ledger", scene.receiver.count() + 100).await;
        scene.walhook = std::mem::replace(&mut other, Start::serve(&scene.database).ready().await);
    }
    writers.finish().await;
    check_log(&scene.sql, DEADLINE).await;
    let repeated = check_delivered(&scene.sql, &scene.receiver, DEADLINE).await;
    assert_eq!(repeated, 0, "{}", scene.walhook.log());
}

#[tokio::test]
async fn roles_can_be_spread_over_nodes() {
    let mut scene = Scene::start_with(ITEMS, |start| start.with(&["--only", "capture,api"])).await;
    let delivering = Start::serve(&scene.database).with(&["--only", "delivery"]).spawn();
    wait_for_lanes(&scene, &delivering, 16).await;
    scene.create("t", "items", "/t", json!({"enable_manual": true})).await;
    scene.execute("insert into items (name) values ('a')").await;
    let id = scene.arrivals("/t", 1).await[0].json()["id"].clone();
    let delivered = "select count(*) from walhook.attempts where verdict = 'delivered'";
    scene.wait_for_count(delivered, 1).await;
    scene.succeed("redeliver_event", json!({"event_id": id})).await;
    scene.arrivals("/t", 2).await;
    // The API goes on without the one that captures.
    let api = Start::serve(&scene.database).with(&["--only", "api"]).ready().await;
    assert!(scene.walhook.terminate(DEADLINE).await.success(), "{}", scene.walhook.log());
    scene.walhook = api;
    scene.succeed("invoke_event_trigger", json!({"name": "t", "payload": {"by": "hand"}})).await;
    scene.arrivals("/t", 3).await;
}

/// A stop that was asked for while another reason had begun one is not a second one.
#[tokio::test]
async fn one_signal_is_no_second_one_though_the_process_ends_already() {
    let mut scene = Scene::start_with(ITEMS, |start| start.with(&["--grace", "3s"])).await;
    scene.receiver.on("/t", Script::always(Answer::hang()));
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items (name) values ('a')").await;
    scene.arrivals("/t", 1).await;
    let slot = scene.database.slot();
    scene
        .execute(&format!(
            "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where slot_name = '{slot}';
             select pg_drop_replication_slot('{slot}')"
        ))
        .await;
    let port = scene.walhook.port();
    let closed = || async {
        match tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
            Ok(_) => Err("it listens"),
            Err(_) => Ok(()),
        }
    };
    eventually("the API to end", DEADLINE, closed).await;
    scene.walhook.signal("TERM");
    assert_eq!(scene.walhook.wait(DEADLINE).await.code(), Some(3), "{}", scene.walhook.log());
    assert!(!scene.walhook.log().contains("second signal"), "{}", scene.walhook.log());
}
