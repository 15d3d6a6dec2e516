//! How much is under way and how fast it goes out: limits of a trigger, and of all together.

mod support;

use std::time::{Duration, SystemTime};

use serde_json::json;
use support::receiver::{Answer, Script};
use support::scene::Scene;
use support::walhook::Start;

const ITEMS: &str = "create table items (id int generated always as identity primary key)";

async fn insert(scene: &Scene, rows: u32) {
    scene.execute(&format!("insert into items select from generate_series(1, {rows})")).await;
}

/// When requests came, in order.
async fn arrivals(scene: &Scene, path: &str, count: usize) -> Vec<SystemTime> {
    let mut times: Vec<SystemTime> =
        scene.arrivals(path, count).await.iter().map(|request| request.arrived_at).collect();
    times.sort();
    times
}

/// Whatever delays a request, none can come before its turn.
fn check_pace(arrivals: &[SystemTime], start: SystemTime, a_second: u32) {
    for (turn, arrived_at) in (0..).zip(arrivals) {
        let earliest = start + Duration::from_secs(1) / a_second * turn - Duration::from_millis(5);
        let ahead = earliest.duration_since(*arrived_at);
        assert!(*arrived_at >= earliest, "request {turn} came {ahead:?} too early");
    }
}

#[tokio::test]
async fn a_rate_limit_holds_for_fresh_events_and_retries_together() {
    const A_SECOND: u32 = 10;
    let scene = Scene::start(ITEMS).await;
    scene.receiver.on("/t", Script::first(4, Answer::status(500)));
    let limits = json!({"rate_limit_per_sec": A_SECOND, "retry_conf": {"num_retries": 1, "interval_sec": 1}});
    scene.create("t", "items", "/t", limits).await;
    let start = SystemTime::now();
    insert(&scene, 20).await;
    check_pace(&arrivals(&scene, "/t", 24).await, start, A_SECOND);
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 20).await;
}

/// Each of them has its lanes' part of it.
#[tokio::test]
async fn a_rate_limit_is_that_of_all_nodes_together() {
    const A_SECOND: u32 = 8;
    let scene = Scene::start(ITEMS).await;
    let second = Start::serve(&scene.database).ready().await;
    scene.wait_for_count("select count(distinct node) from walhook.lanes where node is not null", 2).await;
    scene.create("t", "items", "/t", json!({"rate_limit_per_sec": A_SECOND})).await;
    let start = SystemTime::now();
    insert(&scene, 32).await;
    // The first one of each node may come at once.
    check_pace(&arrivals(&scene, "/t", 32).await[1..], start, A_SECOND);
    drop(second);
}

/// A batch is one request, and so is each part of one that is refused.
#[tokio::test]
async fn a_rate_limit_counts_requests_and_not_the_events_in_them() {
    const A_SECOND: u32 = 2;
    let scene = Scene::start(ITEMS).await;
    scene.receiver.on("/t", Script::each(vec![Answer::default(), Answer::status(413)]));
    let batch = json!({"max_events": 200, "max_wait_ms": 60_000});
    scene.create("t", "items", "/t", json!({"rate_limit_per_sec": A_SECOND, "batch": batch})).await;
    let start = SystemTime::now();
    insert(&scene, 400).await;
    // Event by event, the second batch would not come before the deadline.
    check_pace(&arrivals(&scene, "/t", 4).await, start, A_SECOND);
    let events: Vec<_> =
        scene.receiver.requests("/t").iter().map(|request| request.json().as_array().map(Vec::len)).collect();
    assert_eq!(events, [200, 200, 100, 100].map(Some));
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 400).await;
}

#[tokio::test]
async fn no_more_requests_than_max_in_flight_are_under_way() {
    const TAKES: Duration = Duration::from_millis(100);
    let scene = Scene::start(ITEMS).await;
    let batch = json!({"max_events": 2, "max_wait_ms": 60_000});
    for (path, limits) in [("/t", json!({"max_in_flight": 3})), ("/b", json!({"max_in_flight": 3, "batch": batch}))] {
        scene.receiver.on(path, Script::always(Answer::default().after(TAKES)));
        scene.create(&path[1..], "items", path, limits).await;
    }
    insert(&scene, 20).await;
    check_under_way(&arrivals(&scene, "/t", 20).await, 3, TAKES);
    check_under_way(&arrivals(&scene, "/b", 10).await, 3, TAKES);
}

/// Each is under way at the receiver for so long at least: one more within less was under way with all of them.
fn check_under_way(arrivals: &[SystemTime], most: usize, each_takes: Duration) {
    for together in arrivals.windows(most + 1) {
        let within = together[most].duration_since(together[0]).expect("in order");
        assert!(within >= each_takes - Duration::from_millis(5), "{} requests within {within:?}", most + 1);
    }
}

#[tokio::test]
async fn max_in_flight_is_that_of_all_nodes_together() {
    const TAKES: Duration = Duration::from_millis(200);
    let scene = Scene::start(ITEMS).await;
    let second = Start::serve(&scene.database).ready().await;
    scene.wait_for_count("select count(distinct node) from walhook.lanes where node is not null", 2).await;
    scene.receiver.on("/t", Script::always(Answer::default().after(TAKES)));
    scene.create("t", "items", "/t", json!({"max_in_flight": 4})).await;
    // Both know the trigger once they have sent events of it.
    insert(&scene, 40).await;
    arrivals(&scene, "/t", 40).await;
    insert(&scene, 40).await;
    check_under_way(&arrivals(&scene, "/t", 80).await[40..], 4, TAKES);
    drop(second);
}

#[tokio::test]
async fn a_trigger_whose_requests_hang_leaves_the_others_their_part_of_all() {
    let scene = Scene::start_with(ITEMS, |start| start.with(&["--max-in-flight", "8"])).await;
    scene.receiver.on("/hang", Script::always(Answer::hang()));
    scene.create("hang", "items", "/hang", json!({"retry_conf": {"timeout_sec": 3600}})).await;
    scene.create("fine", "items", "/fine", json!({})).await;
    insert(&scene, 50).await;
    scene.arrivals("/fine", 50).await;
    scene.arrivals("/hang", 6).await;
    assert_eq!(scene.receiver.requests("/hang").len(), 6, "three quarters, and not the last one");
}
