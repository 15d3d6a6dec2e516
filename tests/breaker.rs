//! Endpoints that are down: what they cost an event, and what is sent to them meanwhile.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::receiver::{Answer, Script};
use support::scene::{DEADLINE, Scene, trigger};
use support::wait::eventually;
use walhook::postgres::cluster::free_port;

const ITEMS: &str = "create table items (id int generated always as identity primary key);
                     create table other (id int generated always as identity primary key)";

fn retries(num_retries: u32) -> Value {
    json!({"retry_conf": {"num_retries": num_retries, "interval_sec": 1}})
}

async fn insert(scene: &Scene, table: &str, rows: u32) {
    scene.execute(&format!("insert into {table} select from generate_series(1, {rows})")).await;
}

/// Waits until `walhook.endpoints` says this of so many triggers.
async fn wait_for_state(scene: &Scene, state: &str, triggers: i64) {
    scene.wait_for_count(&format!("select count(*) from walhook.endpoints where state = '{state}'"), triggers).await;
}

async fn wait_for_line(scene: &Scene, line: &str) {
    let logged = || async { if scene.walhook.log().contains(line) { Ok(()) } else { Err(scene.walhook.log()) } };
    eventually(line, DEADLINE, logged).await;
}

#[tokio::test]
async fn an_outage_longer_than_the_retries_makes_no_event_dead_and_holds_up_nobody() {
    let scene = Scene::start(ITEMS).await;
    scene.receiver.on("/down", Script::always(Answer::status(503)));
    scene.create("down", "items", "/down", retries(1)).await;
    scene.create("sibling", "items", "/down", retries(1)).await;
    scene.create("fine", "other", "/fine", json!({})).await;
    insert(&scene, "items", 10).await;
    wait_for_state(&scene, "down", 2).await;
    insert(&scene, "items", 50).await;
    insert(&scene, "other", 50).await;
    scene.arrivals("/fine", 50).await;
    // After pauses of one second and two: longer than one retry after a second.
    let probes = "select count(*) >= 2 from walhook.attempts where status = 503 and started_at >
                  (select since + interval '0.9 s' from walhook.endpoints where trigger = 'down')";
    let probed = || async { if scene.value::<bool>(probes, &[]).await { Ok(()) } else { Err("few probes") } };
    eventually("two probes", DEADLINE, probed).await;
    assert!(scene.receiver.requests("/down").len() < 35, "more than probes were sent");
    let reason: String = scene.value("select reason from walhook.endpoints where trigger = 'down'", &[]).await;
    assert_eq!(reason, "it answered 503");
    assert_eq!(scene.count("select count(*) from walhook.attempts where verdict = 'dead'").await, 0);
    scene.receiver.on("/down", Script::default());
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 170).await;
    wait_for_state(&scene, "up", 3).await;
    // Nothing beyond the few failures that showed the outage counted.
    assert_eq!(scene.count("select count(*) from walhook.attempts where number > 1").await, 0);
    let counted = "select count(distinct event_id) from walhook.attempts where number = 1";
    assert_eq!(scene.count(counted).await, 4);
    let log = scene.walhook.log();
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!((lines("the endpoint is down: it answered 503"), lines("the endpoint answers again")), (1, 1), "{log}");
}

#[tokio::test]
async fn a_probe_is_not_earlier_than_retry_after_asks() {
    let scene = Scene::start(ITEMS).await;
    scene.receiver.on("/t", Script::first(5, Answer::status(503).retry_after("4")));
    scene.create("t", "items", "/t", retries(0)).await;
    insert(&scene, "items", 5).await;
    wait_for_line(&scene, "the endpoint is down").await;
    insert(&scene, "items", 1).await;
    let requests = scene.arrivals("/t", 11).await;
    let asked = requests[0].arrived_at + Duration::from_secs(4);
    assert!(requests[5..].iter().all(|request| request.arrived_at >= asked), "{requests:?}");
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 6).await;
}

#[tokio::test]
async fn where_no_host_is_reached_it_is_our_network_and_another_url_is_tried_at_once() {
    let scene = Scene::start(ITEMS).await;
    let names = ["one", "two", "three", "four"];
    for name in names {
        let url = format!("http://127.0.0.1:{}/", free_port().expect("a port"));
        scene.succeed("create_event_trigger", trigger(name, "items", &url, retries(0))).await;
    }
    insert(&scene, "items", 1).await;
    wait_for_line(&scene, "3 hosts cannot be reached").await;
    insert(&scene, "items", 20).await;
    wait_for_state(&scene, "down", 4).await;
    // The first two hosts could have been by themselves; without retries, that ended their events.
    let dead = "select count(*) from walhook.attempts where verdict = 'dead'";
    scene.wait_for_count(dead, 2).await;
    assert!(!scene.walhook.log().contains("the endpoint is down"), "one line is enough:\n{}", scene.walhook.log());
    for name in names {
        let args = trigger(name, "items", &scene.receiver.url("/moved"), json!({"replace": true}));
        scene.succeed("create_event_trigger", args).await;
    }
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 4 * 21 - 2).await;
    assert_eq!(scene.count(dead).await, 2);
}
