//! What walhook keeps to itself and how much it holds: invariants 8 and 9 of DESIGN.md.

mod support;

use serde_json::json;
use support::receiver::{Answer, Script};
use support::scene::Scene;

const ITEM: &str = "create table item (id bigint generated always as identity primary key, payload text)";
const MEBIBYTE: u64 = 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_much_larger_than_memorys_bounds_stays_out_of_memory() {
    const ROWS: usize = 60_000;
    let scene = Scene::start(ITEM).await;
    scene.create("item", "item", "/item", json!({"update": null, "delete": null})).await;
    // About 120 MiB of events in one transaction.
    scene
        .execute(&format!("insert into item (payload) select repeat('x', 2000) from generate_series(1, {ROWS})"))
        .await;
    scene.arrivals("/item", ROWS).await;
    let highest = scene.walhook.memory_kib().highest;
    assert!(highest < 64 * MEBIBYTE, "{highest} KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_many_mebibytes_pass_one_by_one() {
    const ROWS: usize = 24;
    let scene = Scene::start(ITEM).await;
    scene.create("item", "item", "/item", json!({"update": null, "delete": null})).await;
    scene.receiver.on("/item", Script::first(1, Answer::status(500)));
    // Random text, which the database cannot compress: 24 rows of 4 MiB.
    scene
        .execute(&format!(
            "insert into item (payload) select (select string_agg(md5(g::text || i::text), '') from \
             generate_series(1, 131072) i) from generate_series(1, {ROWS}) g"
        ))
        .await;
    let arrived = scene.arrivals("/item", ROWS).await;
    assert!(arrived.iter().all(|request| request.body.len() > 4 * 1024 * 1024));
}

/// What is read back, from the log and from `deferred`, is bounded by what it is in memory, not by what it is on disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_the_database_stores_a_hundred_times_smaller_stay_out_of_memory() {
    const ROWS: usize = 400;
    let scene = Scene::start(ITEM).await;
    scene.create("item", "item", "/item", json!({"retry_conf": {"give_up_on": [400]}})).await;
    scene.receiver.on("/item", Script::first(ROWS, Answer::status(400)));
    scene.execute("select walhook.pause('item')").await;
    // 120 MiB of which the log stores about one.
    scene
        .execute(&format!("insert into item (payload) select repeat('x', 300000) from generate_series(1, {ROWS})"))
        .await;
    scene.wait_for_count("select count(*) from walhook.event", ROWS as i64).await;
    scene.execute("select walhook.resume('item')").await;
    scene.wait_for_count("select count(*) from walhook.attempt where verdict = 'dead'", ROWS as i64).await;
    let highest = scene.walhook.memory_kib().highest;
    assert!(highest < 64 * MEBIBYTE, "{highest} KiB from the log");
    scene.execute("select walhook.redeliver_dead('item')").await;
    scene.arrivals("/item", 2 * ROWS).await;
    let highest = scene.walhook.memory_kib().highest;
    assert!(highest < 64 * MEBIBYTE, "{highest} KiB from what is deferred");
}

/// Nobody can tell without unpacking it how long a packed value's text is. Each second row is left out by a condition.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_of_values_that_are_packed_small_stays_out_of_memory() {
    const ROWS: i64 = 800;
    let scene = Scene::start("create table item (id bigint primary key, payload jsonb)").await;
    scene.execute("insert into item values (0, '0')").await;
    let rows = format!("select id, to_jsonb(repeat('x', 300000)) from generate_series(1, {ROWS}) id");
    scene.execute(&format!("insert into item {rows}")).await;
    scene.create("item", "item", "/item", json!({})).await;
    scene.succeed("backfill_event_trigger", json!({"name": "item", "where": "id % 2 = 0"})).await;
    let arrived = scene.arrivals("/item", ROWS as usize / 2 + 1).await;
    let mut ids: Vec<i64> =
        arrived.iter().filter_map(|request| request.json()["event"]["data"]["new"]["id"].as_i64()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..=ROWS).step_by(2).collect::<Vec<_>>());
    scene.wait_for_count("select count(*) from walhook.backfills where state = 'done'", 1).await;
    let looked_at: i64 = scene.value("select looked_at from walhook.backfills", &[]).await;
    assert_eq!(looked_at, ROWS + 1);
    let highest = scene.walhook.memory_kib().highest;
    assert!(highest < 64 * MEBIBYTE, "{highest} KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_secrets_nor_row_values_are_in_the_log_or_an_error() {
    const SECRETS: [&str; 5] =
        ["row-value-4711", "header-secret-4711", "url-secret-4711", "literal-secret-4711", "login-secret-4711"];
    let scene = Scene::start_with(ITEM, |start| {
        let start = start.env("HEADER", "header-secret-4711").env("URL_KEY", "url-secret-4711");
        // As an operator would who looks for a fault.
        start.env("WALHOOK_LOG", "debug,walhook=trace")
    })
    .await;
    let (_, login) = scene.database.url().split_once("//postgres:").expect("a URL with a password");
    let password = login.split('@').next().expect("a password").to_owned();
    let refused = scene.receiver.url("/refused?key={{URL_KEY}}");
    let headers = json!([{"name": "X-Secret", "value_from_env": "HEADER"}]);
    let echo = json!({"headers": [headers[0], {"name": "X-Literal", "value": "literal-secret-4711"}],
                      "enable_manual": true});
    scene.create("echo", "item", "/echo", echo).await;
    let with_login = scene.receiver.url("/login").replace("http://", "http://walhook:login-secret-4711@");
    let login = json!({"name": "login", "table": "item", "webhook": with_login, "insert": {"columns": "*"}});
    scene.succeed("create_event_trigger", login).await;
    let (status, _) = scene
        .call(
            "create_event_trigger",
            json!({"name": "refused", "table": "item", "webhook": refused,
              "headers": headers, "insert": {"columns": "*"}}),
        )
        .await;
    assert_eq!(status, 200);
    // The receivers fail and say what they were sent.
    let echo = || Answer::status(500).body("row-value-4711 header-secret-4711");
    scene.receiver.on("/echo", Script::always(echo()));
    scene.receiver.on("/refused?key=url-secret-4711", Script::always(Answer::garbage()));
    scene.execute("insert into item (payload) values ('row-value-4711')").await;
    scene.wait_for_count("select count(*) from walhook.attempt where verdict = 'dead'", 2).await;
    scene.succeed("invoke_event_trigger", json!({"name": "echo", "payload": {"by": "row-value-4711"}})).await;
    scene.succeed("backfill_event_trigger", json!({"name": "echo", "where": "payload = 'row-value-4711'"})).await;
    scene.wait_for_count("select count(*) from walhook.attempt where verdict = 'dead'", 4).await;
    scene.arrivals("/login", 1).await;
    let (_, error) = scene
        .call(
            "create_event_trigger",
            json!({"name": "x", "table": "item", "webhook": "{{URL_KEY}}",
              "insert": {"columns": "*"}}),
        )
        .await;
    let log = scene.walhook.log();
    let errors: String = scene.value("select string_agg(coalesce(error, ''), ' ') from walhook.attempt", &[]).await;
    for secret in SECRETS.into_iter().chain([password.as_str()]) {
        for (place, text) in [("the log", &log), ("an API error", &error.to_string()), ("attempt.error", &errors)] {
            assert!(!text.contains(secret), "{secret} is in {place}: {text}");
        }
    }
}
