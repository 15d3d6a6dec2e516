//! `/metrics`: what is counted is what happened, in a page that Prometheus can read, for those who may.

mod support;

use serde_json::json;
use support::metrics::Page;
use support::receiver::{Answer, Script};
use support::scene::Scene;

const TABLES: &str = "create table items (id int primary key, secret text); create table other (id int primary key)";
const TOKEN: &str = "scrape-me-not";
/// A name that needs escapes.
const SOURCE: &str = "the \"first\" \\one";

/// Triggers `fine`, whose events are accepted, `bad`, whose events are dead, `hung`, which never gets an answer, and
/// `held`, which is paused; each with the events of two transactions, and each of them settled as far as it will be.
async fn busy() -> Scene {
    let settings = ["--metrics-secret", TOKEN, "--source", SOURCE];
    let scene = Scene::start_with(TABLES, |start| start.with(&settings)).await;
    let of = |path: &str| scene.receiver.url(path);
    scene.receiver.on("/bad", Script::always(Answer::status(500)));
    scene.receiver.on("/hung", Script::always(Answer::hang()));
    for (name, table, changes) in [
        ("fine", "items", json!({})),
        ("bad", "items", json!({})),
        ("hung", "other", json!({"retry_conf": {"timeout_sec": 600}})),
        ("held", "other", json!({})),
    ] {
        let mut args = support::scene::trigger(name, table, &of(&format!("/{name}")), changes);
        args["source"] = json!(SOURCE);
        scene.succeed("create_event_trigger", args).await;
    }
    scene.succeed("pause_event_trigger", json!({"name": "held", "source": SOURCE})).await;
    scene.execute("insert into items values (1, 'row-value'), (2, 'row-value'), (3, 'row-value')").await;
    scene.execute("insert into items values (4, 'row-value'); insert into other values (1)").await;
    let settled = "select count(*) from walhook.events
                   where (trigger, status) in (('fine', 'delivered'), ('bad', 'dead')) or trigger in ('hung', 'held')";
    scene.wait_for_count(settled, 10).await;
    scene.arrivals("/hung", 1).await;
    scene
}

#[tokio::test]
async fn what_was_captured_and_sent_is_counted_and_nothing_private_is_shown() {
    let scene = busy().await;
    // What depends on how fast the machine is just now: a heartbeat may be late, the database may take too long.
    let page = Page::wait_for(&scene.walhook, TOKEN, "a node that lives, and an event that waits", |page| {
        let held = [("source", SOURCE), ("trigger", "held")];
        let waits = page.find("walhook_oldest_waiting_seconds", &held).is_some_and(|seconds| seconds > 0.0);
        page.find("walhook_node_live", &[]) == Some(1.0) && waits
    })
    .await;
    let source = [("source", SOURCE)];
    assert_eq!(page.value("walhook_source_captured", &source), 1.0);
    assert_eq!(page.value("walhook_captured_events_total", &source), 10.0);
    assert_eq!(page.value("walhook_captured_transactions_total", &source), 2.0, "a batch of statements is one");
    assert!(page.value("walhook_captured_commit_timestamp_seconds", &source) > 1.7e9);
    page.value("walhook_capture_delay_seconds", &source);
    assert_eq!(page.value("walhook_lanes", &[]), 16.0);
    assert_eq!(page.value("walhook_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);

    let of = |name: &str, trigger: &str| page.value(name, &[("source", SOURCE), ("trigger", trigger)]);
    let attempts = |trigger: &str, outcome: &str| {
        let labels = [("source", SOURCE), ("trigger", trigger), ("outcome", outcome)];
        page.value("walhook_delivery_attempts_total", &labels)
    };
    assert_eq!((attempts("fine", "2xx"), attempts("fine", "5xx")), (4.0, 0.0));
    assert_eq!((attempts("bad", "2xx"), attempts("bad", "5xx")), (0.0, 4.0));
    let ends = |trigger| (of("walhook_delivered_events_total", trigger), of("walhook_dead_events_total", trigger));
    assert_eq!((ends("fine"), ends("bad"), ends("hung")), ((4.0, 0.0), (0.0, 4.0), (0.0, 0.0)));
    assert_eq!((of("walhook_deliveries_in_flight", "hung"), of("walhook_deliveries_in_flight", "fine")), (1.0, 0.0));
    assert_eq!((of("walhook_trigger_paused", "held"), of("walhook_trigger_paused", "fine")), (1.0, 0.0));

    let bucket = |bound| {
        let labels = [("source", SOURCE), ("trigger", "fine"), ("le", bound)];
        page.value("walhook_delivery_duration_seconds_bucket", &labels)
    };
    let durations =
        ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "30.0", "+Inf"];
    let classes = durations.map(bucket);
    assert!(classes.is_sorted() && classes[12] == 4.0, "{classes:?}");
    assert_eq!(of("walhook_delivery_duration_seconds_count", "fine"), 4.0);
    assert!(of("walhook_delivery_duration_seconds_sum", "fine") > 0.0);

    assert_eq!(Page::get(&scene.walhook, None).await.0, 401);
    assert_eq!(Page::get(&scene.walhook, Some("a guess")).await.0, 401);
    let (_, text) = Page::get(&scene.walhook, Some(TOKEN)).await;
    for private in [TOKEN, "row-value", "127.0.0.1"] {
        assert!(!text.contains(private), "{private} in {text}");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_down_and_the_rows_behind_a_failure_show() {
    let scene = Scene::start(TABLES).await;
    // Nothing listens there.
    let closed = support::scene::trigger("down", "items", "http://127.0.0.1:1/", json!({}));
    scene.succeed("create_event_trigger", closed).await;
    let retries = json!({"retry_conf": {"num_retries": 5, "interval_sec": 3600}});
    scene.create("failing", "other", "/failing", retries).await;
    scene.receiver.on("/failing", Script::always(Answer::status(500)));
    scene.execute("insert into items select n, 'a' from generate_series(1, 8) n; insert into other values (1)").await;
    Page::wait_for(&scene.walhook, "no secret is set", "an endpoint that is down, and a row that is held", |page| {
        let of = |name: &str, trigger: &str| page.find(name, &[("source", "default"), ("trigger", trigger)]);
        let is_down = of("walhook_endpoint_down", "down") == Some(1.0);
        let holds = of("walhook_held_rows", "failing") == Some(1.0);
        is_down && holds && of("walhook_endpoint_down", "failing") == Some(0.0)
    })
    .await;
}
