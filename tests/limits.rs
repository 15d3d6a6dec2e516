//! How much is under way and how fast it goes out: limits of a trigger, and of all together.

mod support;

use std::time::{Duration, SystemTime};

use serde_json::json;
use support::receiver::{Answer, Script};
use support::scene::Scene;

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

#[tokio::test]
async fn a_rate_limit_holds_for_fresh_events_and_retries_together() {
    const A_SECOND: u32 = 10;
    let scene = Scene::start(ITEMS).await;
    scene.receiver.on("/t", Script::first(4, Answer::status(500)));
    let limits = json!({"rate_limit_per_sec": A_SECOND, "retry_conf": {"num_retries": 1, "interval_sec": 1}});
    scene.create("t", "items", "/t", limits).await;
    let start = SystemTime::now();
    insert(&scene, 20).await;
    // Whatever delays a request, none can come before its turn.
    for (turn, arrived_at) in (0..).zip(arrivals(&scene, "/t", 24).await) {
        let earliest = start + Duration::from_secs(1) / A_SECOND * turn - Duration::from_millis(5);
        assert!(arrived_at >= earliest, "request {turn} came {:?} too early", earliest.duration_since(arrived_at));
    }
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 20).await;
}

#[tokio::test]
async fn no_more_requests_than_max_in_flight_are_under_way() {
    const TAKES: Duration = Duration::from_millis(100);
    let scene = Scene::start(ITEMS).await;
    scene.receiver.on("/t", Script::always(Answer::default().after(TAKES)));
    scene.create("t", "items", "/t", json!({"max_in_flight": 3})).await;
    insert(&scene, 20).await;
    let times = arrivals(&scene, "/t", 20).await;
    // Each is under way at the receiver for that long at least, so four within less are four at once.
    for four in times.windows(4) {
        let within = four[3].duration_since(four[0]).expect("in order");
        assert!(within >= TAKES - Duration::from_millis(5), "four requests within {within:?}");
    }
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
