//! Custom events for a later time.

mod support;

use std::collections::BTreeSet;
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use support::receiver::Request;
use support::scene::Scene;

const ITEMS: &str = "create table items (id int generated always as identity primary key, name text)";

/// A scene with a trigger on type `reminder`, and one on a table.
async fn scene() -> Scene {
    let scene = Scene::start(ITEMS).await;
    let args = json!({"name": "reminder", "type": "reminder", "webhook": scene.receiver.url("/reminder")});
    scene.succeed("create_event_trigger", args).await;
    scene.create("items", "items", "/items", json!({})).await;
    scene
}

/// How late a request was, in milliseconds; negative where it was early.
fn lateness(request: &Request) -> f64 {
    let due: DateTime<Utc> = request.json()["event"]["deliver_at"].as_str().expect("a time").parse().expect("a time");
    match request.arrived_at.duration_since(SystemTime::from(due)) {
        Ok(late) => late.as_secs_f64() * 1e3,
        Err(early) => -early.duration().as_secs_f64() * 1e3,
    }
}

fn ids(requests: &[Request]) -> BTreeSet<String> {
    requests.iter().map(|request| request.json()["id"].to_string()).collect()
}

#[tokio::test]
async fn each_comes_once_and_never_early_and_holds_up_nobody() {
    const COUNT: usize = 300;
    let scene = scene().await;
    scene
        .execute(&format!(
            "select walhook.emit('reminder', to_jsonb(n), clock_timestamp() + interval '1 second' + n * interval '5 ms')
             from generate_series(1, {COUNT}) n;
             insert into items (name) values ('a'); select walhook.emit('reminder', '\"now\"')"
        ))
        .await;
    // What was committed after them need not wait for them.
    scene.arrivals("/items", 1).await;
    let requests = scene.arrivals("/reminder", COUNT + 1).await;
    let is_now = |request: &&Request| request.json()["event"]["data"]["new"] == json!("now");
    let now = requests.iter().find(is_now).expect("the one without a time").json();
    assert_eq!(now["event"].get("deliver_at"), None);
    let mut late: Vec<f64> = requests.iter().filter(|request| !is_now(request)).map(lateness).collect();
    assert_eq!((late.len(), ids(&requests).len()), (COUNT, COUNT + 1));
    late.sort_by(f64::total_cmp);
    println!(
        "late by, ms: p50 {:.1}, p99 {:.1}, at most {:.1}",
        late[COUNT / 2],
        late[COUNT * 99 / 100],
        late[COUNT - 1]
    );
    assert!(late[0] >= 0.0, "{} ms", late[0]);
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", COUNT as i64 + 2).await;
    assert_eq!(scene.count("select count(*) from walhook.attempt").await, COUNT as i64 + 2);
    assert_eq!(scene.count("select count(*) from walhook.deferred").await, 0);
}

/// Each look at what is due brings as many as there is room for: a look for every few of them would make the last late.
#[tokio::test]
async fn very_many_that_are_due_at_one_moment_are_read_in_large_pages() {
    const COUNT: i64 = 5_000;
    let scene = Scene::start_with(ITEMS, |start| start.env("WALHOOK_LOG", "info,walhook::delivery=debug")).await;
    let args = json!({"name": "reminder", "type": "reminder", "webhook": scene.receiver.url("/reminder")});
    scene.succeed("create_event_trigger", args).await;
    scene.succeed("pause_event_trigger", json!({"name": "reminder"})).await;
    let emit = "select walhook.emit('reminder', to_jsonb(n), now() + interval '1 hour')";
    scene.execute(&format!("{emit} from generate_series(1, {COUNT}) n")).await;
    scene.wait_for_count("select count(*) from walhook.deferred", COUNT).await;
    scene.execute("update walhook.deferred set due_at = now()").await;
    scene.succeed("resume_event_trigger", json!({"name": "reminder"})).await;
    scene.wait_for_count("select count(*) from walhook.attempt where verdict = 'delivered'", COUNT).await;
    let requests = scene.receiver.requests("/reminder");
    assert_eq!((requests.len(), ids(&requests).len()), (COUNT as usize, COUNT as usize));
    let log = scene.walhook.log();
    let reads = log.matches("deferred events were read").count();
    println!("{COUNT} due events in {reads} reads");
    assert!((1..=40).contains(&reads), "{log}");
}

#[tokio::test]
async fn a_crash_neither_sends_them_too_soon_nor_forgets_them() {
    const COUNT: i64 = 200;
    let scene = scene().await;
    scene
        .execute(&format!(
            "select walhook.emit('reminder', to_jsonb(n), now() + interval '1 hour') from generate_series(1, {COUNT}) n"
        ))
        .await;
    let waiting = "select count(*) from walhook.events where status = 'pending' and attempts = 0
                   and next_attempt_at > now() + interval '50 minutes'";
    scene.wait_for_count(waiting, COUNT).await;
    // Nothing was attempted and no cursor was moved, so the next owner reads the log from its start.
    let scene = scene.crash_and_restart().await;
    scene.execute("select walhook.emit('reminder', '\"marker\"')").await;
    let requests = scene.arrivals("/reminder", 1).await;
    assert_eq!(requests[0].json()["event"]["data"]["new"], json!("marker"));
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 1).await;
    assert_eq!(scene.count(waiting).await, COUNT);
    assert_eq!(scene.receiver.count(), 1);
    // Their time comes while nobody is there.
    let Scene { walhook, receiver, sql, database } = scene;
    let port = walhook.port();
    walhook.kill9().await;
    sql.batch_execute("update walhook.deferred set due_at = now()").await.expect("an update");
    let walhook = support::walhook::Start::serve(&database).on_port(port).ready().await;
    let scene = Scene { walhook, receiver, sql, database };
    let requests = scene.arrivals("/reminder", COUNT as usize + 1).await;
    assert_eq!(ids(&requests).len(), COUNT as usize + 1);
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", COUNT + 1).await;
    assert_eq!(scene.receiver.requests("/reminder").len(), COUNT as usize + 1);
}

#[tokio::test]
async fn bad_times_are_refused_and_those_that_are_over_mean_now() {
    let scene = scene().await;
    for time in ["'infinity'", "'-infinity'", "now() + interval '11 years'"] {
        let statement = format!("select walhook.emit('reminder', null, {time})");
        let error = scene.sql.batch_execute(&statement).await.expect_err(time);
        assert_eq!(error.code().map(|code| code.code()), Some("22023"), "{time}");
    }
    scene.execute("begin; select walhook.emit('reminder', '1', now() + interval '1 hour'); rollback").await;
    // By hand anything can be written; no time of it may stop capture.
    for time in [i64::MAX, i64::MIN] {
        let content = format!(r#"{{"event":{{"type":"reminder","data":"by hand","deliver_at":{time}}}}}"#);
        scene.execute(&format!("select pg_logical_emit_message(true, 'walhook', '{content}')")).await;
    }
    scene
        .execute(
            "select walhook.emit('reminder', '2', now() - interval '1 year');
             select walhook.emit('reminder', deliver_at => null, data => '3'); select walhook.emit('reminder', '4')",
        )
        .await;
    let requests = scene.arrivals("/reminder", 4).await;
    let data: BTreeSet<String> =
        requests.iter().map(|request| request.json()["event"]["data"]["new"].to_string()).collect();
    assert_eq!(data, ["\"by hand\"", "2", "3", "4"].map(str::to_owned).into());
    assert!(requests.iter().all(|request| request.json()["event"].get("deliver_at").is_none_or(Value::is_null)));
    assert_eq!(scene.count("select count(*) from walhook.event").await, 4);
}

/// `WALHOOK_TEST_SCHEDULED=1000000` runs it as the README promises.
#[tokio::test]
async fn very_many_cost_no_memory() {
    let count: i64 = std::env::var("WALHOOK_TEST_SCHEDULED").map_or(20_000, |count| count.parse().expect("a number"));
    let scene = scene().await;
    for _ in 0..10 {
        let part = count / 10;
        let data = "jsonb_build_object('n', n, 'text', repeat('x', 300))";
        let emit = format!("select count(walhook.emit('reminder', {data}, now() + interval '1 day'))");
        scene.execute(&format!("{emit} from generate_series(1, {part}) n")).await;
    }
    for part in 1..=10 {
        let enough = format!("select (count(*) >= {})::int::bigint from walhook.deferred", count / 10 * part);
        scene.wait_for_count(&enough, 1).await;
    }
    scene.execute("insert into items (name) values ('a')").await;
    scene.arrivals("/items", 1).await;
    let memory = scene.walhook.memory_kib();
    println!("with {count} events that wait for their time: {memory:?}");
    assert!(memory.highest < 64 * 1024, "{memory:?}");
    assert_eq!(scene.receiver.count(), 1);
}
