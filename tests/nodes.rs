//! Several nodes on one queue.

mod support;

use std::time::Instant;

use serde_json::json;
use support::receiver::{Answer, Script};
use support::scene::{DEADLINE, Scene};
use support::wait::eventually;
use support::walhook::{Start, Walhook};

const ITEMS: &str = "create table public.items (id bigint generated always as identity primary key, name text)";
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
