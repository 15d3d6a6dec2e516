//! The webhook request, what its answer means, and that no endpoint holds up another.

mod support;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use support::receiver::{Answer, Request, Script};
use support::scene::{DEADLINE, Scene};
use support::wait::eventually;

const ITEMS: &str = "create table items (id int generated always as identity primary key, name text);
                     create table other (id int generated always as identity primary key, name text)";

fn number(request: &Request) -> Value {
    request.json()["delivery_info"]["current_retry"].clone()
}

/// Waits until a trigger has events and all of them have this status in `walhook.events`.
async fn wait_for_status(scene: &Scene, trigger: &str, status: &str) {
    let others = format!(
        "select count(*) filter (where status is distinct from '{status}') + (count(*) = 0)::int
         from walhook.events where trigger = '{trigger}'"
    );
    scene.wait_for_count(&others, 0).await;
}

/// A failing endpoint's `retry_conf`: patient, with short steps.
fn patient(timeout: u32) -> Value {
    json!({"retry_conf": {"num_retries": 1000, "interval_sec": 1, "timeout_sec": timeout}})
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[tokio::test]
async fn the_body_has_the_keys_of_the_seed_and_the_commits_time() {
    let scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({"retry_conf": {"num_retries": 3, "interval_sec": 1}})).await;
    let clock = "select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let before: String = scene.value(clock, &[]).await;
    scene.execute("set timezone = 'Asia/Tokyo'; insert into items (name) values ('john doe')").await;
    let after: String = scene.value(clock, &[]).await;
    let body = scene.arrivals("/t", 1).await[0].json();
    assert_eq!(keys(&body), ["created_at", "delivery_info", "event", "id", "table", "trigger"]);
    assert_eq!(keys(&body["trigger"]), ["id", "name"]);
    assert_eq!(keys(&body["event"]), ["data", "op", "session_variables", "trace_context"]);
    let expected = json!({"op": "INSERT", "data": {"old": null, "new": {"id": 1, "name": "john doe"}},
                          "session_variables": null, "trace_context": null});
    assert_eq!(body["event"], expected);
    assert_eq!(body["table"], json!({"schema": "public", "name": "items"}));
    assert_eq!(body["delivery_info"], json!({"current_retry": 0, "max_retries": 3}));
    let trigger: String = scene.value("select id::text from walhook.trigger", &[]).await;
    assert_eq!(body["trigger"], json!({"name": "t", "id": trigger}));
    let created_at = body["created_at"].as_str().expect("a text");
    assert!(before.as_str() <= created_at && created_at <= after.as_str(), "{before} {created_at} {after}");
    assert_eq!((created_at.len(), &created_at[19..20]), (27, "."), "{created_at}");
    let recorded = clock.replace("clock_timestamp()", "committed_at") + " from walhook.event where id = $1::text::uuid";
    assert_eq!(scene.value::<String>(&recorded, &[&body["id"].as_str()]).await, created_at);
}

#[tokio::test]
async fn content_type_and_user_agent_cannot_be_configured() {
    let scene = Scene::start(ITEMS).await;
    let headers = json!([{"name": "content-type", "value": "text/plain"}, {"name": "USER-AGENT", "value": "mine"},
                         {"name": "X-Other", "value": "stays"}]);
    scene.create("t", "items", "/t?q=1&r=%20", json!({"headers": headers})).await;
    scene.execute("insert into items (name) values ('a')").await;
    let request = scene.arrivals("/t?q=1&r=%20", 1).await.remove(0);
    assert_eq!(request.method, "POST");
    let named = |name: &str| request.headers.iter().filter(|(known, _)| known == name).count();
    assert_eq!((request.header("content-type"), named("content-type")), (Some("application/json"), 1));
    assert!(request.header("user-agent").is_some_and(|value| value.starts_with("walhook/")));
    assert_eq!((named("user-agent"), request.header("x-other")), (1, Some("stays")));
    assert_eq!(request.header("content-length").map(str::to_owned), Some(request.body.len().to_string()));
}

#[tokio::test]
async fn every_2xx_is_success_and_nothing_else_is() {
    let scene = Scene::start(ITEMS).await;
    let verdicts = [200, 201, 202, 204, 206, 226, 299].map(|status| (status, "delivered")).into_iter();
    let verdicts = verdicts.chain([301, 302, 400, 401, 404, 410, 429, 500, 503, 599].map(|status| (status, "dead")));
    let verdicts: Vec<(u16, &str)> = verdicts.collect();
    for (status, _) in &verdicts {
        let path = format!("/{status}");
        // Where a redirect leads to would answer 204.
        scene.receiver.on(&path, Script::always(Answer::status(*status).header("Location", "/elsewhere")));
        let only_insert = json!({"update": null, "delete": null});
        scene.create(&format!("s{status}"), "items", &path, only_insert).await;
    }
    scene.execute("insert into items (name) values ('a')").await;
    for (status, verdict) in &verdicts {
        scene.arrivals(&format!("/{status}"), 1).await;
        wait_for_status(&scene, &format!("s{status}"), verdict).await;
    }
    let wrong = "select count(*) from walhook.attempts where 's' || status <> trigger";
    assert_eq!(scene.count(wrong).await, 0);
    assert_eq!(scene.receiver.count(), verdicts.len());
}

#[tokio::test]
async fn a_failing_event_is_sent_num_retries_more_times_with_one_id_and_then_is_dead() {
    let scene = Scene::start(ITEMS).await;
    scene.receiver.on("/fail", Script::always(Answer::status(500).body("no \u{0} \u{fc}")));
    scene.create("fail", "items", "/fail", json!({"retry_conf": {"num_retries": 2, "interval_sec": 1}})).await;
    scene.create("fine", "items", "/fine", json!({})).await;
    scene.execute("insert into items (name) values ('a')").await;
    let requests = scene.arrivals("/fail", 3).await;
    wait_for_status(&scene, "fail", "dead").await;
    wait_for_status(&scene, "fine", "delivered").await;
    assert_eq!(requests.iter().map(number).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(requests.iter().all(|request| request.json()["id"] == requests[0].json()["id"]));
    assert!(requests.iter().all(|request| request.json()["created_at"] == requests[0].json()["created_at"]));
    assert!(requests.windows(2).all(|pair| {
        let pause = pair[1].arrived_at.duration_since(pair[0].arrived_at).expect("in order");
        pause >= std::time::Duration::from_millis(990)
    }));
    let rows =
        scene.sql.query("select number, status, verdict from walhook.attempts where trigger = 'fail' order by 1", &[]);
    let rows = rows.await.expect("the attempts");
    let found: Vec<(i32, i16, String)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(found, [(0, 500, "retry".into()), (1, 500, "retry".into()), (2, 500, "dead".into())]);
    let event = scene
        .sql
        .query_one(
            "select attempts, last_status, next_attempt_at is null from walhook.events
                                     where trigger = 'fail'",
            &[],
        )
        .await
        .expect("the event");
    assert_eq!((event.get::<_, i64>(0), event.get::<_, i16>(1), event.get::<_, bool>(2)), (3, 500, true));
    let status =
        "select array[events, delivered, pending, retrying, dead, attempts] from walhook.status where trigger = $1";
    assert_eq!(scene.value::<Vec<i64>>(status, &[&"fail"]).await, [1, 0, 0, 0, 1, 3]);
    assert_eq!(scene.value::<Vec<i64>>(status, &[&"fine"]).await, [1, 1, 0, 0, 0, 1]);
}

#[tokio::test]
async fn an_event_that_waits_for_its_retry_says_so() {
    let scene = Scene::start(ITEMS).await;
    scene.receiver.on("/t", Script::always(Answer::close()));
    scene.create("t", "items", "/t", json!({"retry_conf": {"num_retries": 5, "interval_sec": 3600}})).await;
    scene.execute("insert into items (name) values ('a')").await;
    wait_for_status(&scene, "t", "retrying").await;
    let due = "select count(*) from walhook.events where next_attempt_at > now() + interval '59 minutes'
               and last_error is not null and last_status is null and attempts = 1";
    assert_eq!(scene.count(due).await, 1);
    // The wait outlives a restart, with its count.
    let scene = scene.crash_and_restart().await;
    scene.receiver.on("/t", Script::default());
    scene.execute("update walhook.deferred set due_at = now()").await;
    let requests = scene.arrivals("/t", 2).await;
    assert_eq!(number(&requests[1]), 1);
}

#[tokio::test]
async fn retry_after_sets_the_pause_and_forces_an_attempt_when_retries_are_used_up() {
    let scene = Scene::start(ITEMS).await;
    scene.receiver.on("/t", Script::first(3, Answer::status(429).retry_after("1")).then(Answer::status(200)));
    // The interval would be too long for this test.
    scene.create("t", "items", "/t", json!({"retry_conf": {"num_retries": 1, "interval_sec": 86_400}})).await;
    scene.execute("insert into items (name) values ('a')").await;
    let requests = scene.arrivals("/t", 4).await;
    assert_eq!(requests.iter().map(number).collect::<Vec<_>>(), [0, 1, 2, 3]);
    wait_for_status(&scene, "t", "delivered").await;
}

#[tokio::test]
async fn a_retry_after_that_names_no_time_to_come_counts_for_nothing() {
    let scene = Scene::start(ITEMS).await;
    for (index, value) in ["0", "-1", "1.5", "soon", "Wed, 21 Oct 2015 07:28:00 GMT"].into_iter().enumerate() {
        let path = format!("/{index}");
        scene.receiver.on(&path, Script::always(Answer::status(503).retry_after(value)));
        scene.create(&format!("t{index}"), "items", &path, json!({})).await;
    }
    scene.receiver.on("/fine", Script::always(Answer::status(200).retry_after("5")));
    scene.create("fine", "items", "/fine", json!({})).await;
    scene.execute("insert into items (name) values ('a')").await;
    scene.wait_for_count("select count(*) from walhook.attempt where verdict = 'dead'", 5).await;
    wait_for_status(&scene, "fine", "delivered").await;
    assert_eq!(scene.count("select count(*) from walhook.deferred").await, 0);
}

#[tokio::test]
async fn retry_after_may_be_a_date_and_is_never_early() {
    let scene = Scene::start(ITEMS).await;
    // Made with the first answer, so that it is a time to come whenever that is.
    let date = Arc::new(OnceLock::new());
    let told = Arc::clone(&date);
    scene.receiver.judge("/t", move |_| {
        let in_four_seconds = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(4));
        match told.set(in_four_seconds.clone()) {
            Ok(()) => Answer::status(503).retry_after(&in_four_seconds),
            Err(_) => Answer::status(200),
        }
    });
    scene.create("t", "items", "/t", json!({"retry_conf": {"num_retries": 0, "interval_sec": 86_400}})).await;
    scene.execute("insert into items (name) values ('a')").await;
    scene.arrivals("/t", 2).await;
    let date = date.get().expect("a first answer");
    assert!(SystemTime::now() >= httpdate::parse_http_date(date).expect("a date"), "before {date}");
    wait_for_status(&scene, "t", "delivered").await;
}

#[tokio::test]
async fn own_keys_of_retry_conf_give_up_at_once_or_let_the_pauses_grow() {
    let scene = Scene::start(ITEMS).await;
    scene.receiver.on("/picky", Script::always(Answer::status(422)));
    scene.receiver.on("/old", Script::always(Answer::status(500)));
    scene.receiver.on("/growing", Script::always(Answer::status(500)));
    let conf = |own: serde_json::Value| {
        let mut conf = json!({"num_retries": 2, "interval_sec": 1});
        conf.as_object_mut().expect("an object").extend(own.as_object().expect("an object").clone());
        json!({"retry_conf": conf})
    };
    scene.create("picky", "items", "/picky", conf(json!({"give_up_on": ["3xx", 422]}))).await;
    scene.create("old", "items", "/old", conf(json!({"interval_sec": 60, "max_age_sec": 30}))).await;
    let growing = json!({"backoff": "exponential", "jitter_percent": 0, "max_interval_sec": 60});
    scene.create("growing", "items", "/growing", conf(growing)).await;
    scene.execute("insert into items (name) values ('a')").await;
    for (name, attempts) in [("picky", 1), ("old", 1), ("growing", 3)] {
        wait_for_status(&scene, name, "dead").await;
        let made = format!("select count(*) from walhook.attempts where trigger = '{name}'");
        assert_eq!(scene.count(&made).await, attempts, "attempts of {name}");
    }
    // From the end of an attempt to the start of the next one.
    let pauses = "select count(*) from (select started_at - lag(started_at) over (order by number) as pause, number \
                  from walhook.attempts where trigger = 'growing') as gaps \
                  where pause >= (number || ' seconds')::interval and number = 1 \
                        or pause >= '2 seconds' and number = 2";
    assert_eq!(scene.count(pauses).await, 2);
}

#[tokio::test]
async fn a_request_without_an_answer_ends_at_its_timeout() {
    let scene = Scene::start(ITEMS).await;
    scene.receiver.on("/t", Script::always(Answer::hang()));
    let conf = json!({"num_retries": 2, "interval_sec": 1, "timeout_sec": 1});
    scene.create("t", "items", "/t", json!({"retry_conf": conf})).await;
    scene.execute("insert into items (name) values ('a')").await;
    let requests = scene.arrivals("/t", 3).await;
    wait_for_status(&scene, "t", "dead").await;
    assert_eq!(requests.iter().map(number).collect::<Vec<_>>(), [0, 1, 2]);
    let error: String = scene.value("select last_error from walhook.events", &[]).await;
    assert_eq!(error, "no answer within 1 s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_misbehave_hold_up_nobody_and_cost_no_memory() {
    const ROWS: i64 = 400;
    let scene = Scene::start(ITEMS).await;
    for (name, answer) in [
        ("hang", Answer::hang()),
        ("close", Answer::close()),
        ("garbage", Answer::garbage()),
        ("broken", Answer::broken_off()),
        ("error", Answer::status(500)),
        ("huge", Answer::mebibytes(10)),
    ] {
        let path = format!("/{name}");
        scene.receiver.on(&path, Script::always(answer));
        scene.create(name, "items", &path, patient(5)).await;
    }
    // A port where nobody listens.
    let nobody = walhook::postgres::cluster::free_port().expect("a port");
    let url = format!("http://127.0.0.1:{nobody}/");
    let args = support::scene::trigger("nobody", "items", &url, patient(5));
    scene.succeed("create_event_trigger", args).await;
    scene.create("fine", "items", "/fine", json!({})).await;
    scene.execute(&format!("insert into items (name) select repeat('x', 300) from generate_series(1, {ROWS})")).await;
    let fine = scene.arrivals("/fine", ROWS as usize).await;
    assert_eq!(fine.len(), ROWS as usize);
    // Even a huge answer is an answer.
    wait_for_status(&scene, "huge", "delivered").await;
    let memory = scene.walhook.memory_kib();
    println!("{memory:?}");
    assert!(memory.highest < 64 * 1024, "{memory:?}");
    // They mend themselves, and nothing was lost meanwhile.
    for name in ["hang", "close", "garbage", "broken", "error"] {
        scene.receiver.on(&format!("/{name}"), Script::default());
    }
    for name in ["hang", "close", "garbage", "broken", "error"] {
        wait_for_status(&scene, name, "delivered").await;
    }
    assert_eq!(scene.count("select dead from walhook.status where trigger = 'hang'").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_larger_than_memorys_bounds_is_delivered_whole_once_the_receiver_recovers() {
    const ROWS: i64 = 20_000;
    let scene = Scene::start(ITEMS).await;
    scene.receiver.on("/t", Script::always(Answer::hang()));
    scene.create("t", "items", "/t", patient(2)).await;
    scene.create("other", "other", "/other", json!({})).await;
    let insert = "insert into items (name) select repeat('x', 1000) from generate_series(1, 4000)";
    for _ in 0..5 {
        scene.execute(insert).await;
    }
    scene.wait_for_count("select count(*) from walhook.event", ROWS).await;
    scene.execute("insert into other (name) values ('a')").await;
    scene.arrivals("/other", 1).await;
    let memory = scene.walhook.memory_kib();
    println!("with the backlog: {memory:?}");
    assert!(memory.highest < 64 * 1024, "{memory:?}");
    scene.receiver.on("/t", Script::default());
    let delivered = || async {
        let count =
            scene.count("select count(distinct event_seq) from walhook.attempt where verdict = 'delivered'").await;
        if count == ROWS + 1 { Ok(()) } else { Err(count) }
    };
    eventually("all events to be delivered", DEADLINE * 2, delivered).await;
    support::load::check_delivered(&scene.sql, &scene.receiver, DEADLINE).await;
    assert_eq!(scene.count("select count(*) from walhook.deferred").await, 0);
    // Delivered once each: only requests that timed out came again.
    let twice = "select count(*) from (select from walhook.attempt where verdict = 'delivered'
                 group by event_id having count(*) > 1) s";
    assert_eq!(scene.count(twice).await, 0);
}

/// They wait for an operator's lock, more of them than there are sessions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_the_api_that_wait_hold_up_no_retry() {
    let scene = Arc::new(Scene::start(ITEMS).await);
    scene.create("t", "items", "/t", json!({"retry_conf": {"num_retries": 9, "interval_sec": 3600}})).await;
    scene.receiver.on("/t", Script::first(1, Answer::status(500)));
    scene.execute("insert into items (name) values ('a')").await;
    scene.wait_for_count("select count(*) from walhook.deferred where reason = 'retry'", 1).await;
    let operator = scene.database.connect().await;
    operator.batch_execute("begin; select from walhook.trigger for update").await.expect("a lock");
    let mut calls: tokio::task::JoinSet<u16> = (0..8)
        .map(|_| {
            let scene = Arc::clone(&scene);
            async move { scene.call("replay_event_trigger", json!({"name": "t", "from_lsn": "0/1"})).await.0 }
        })
        .collect();
    let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    scene.wait_for_count(waits, 4).await;
    scene.execute("update walhook.deferred set due_at = now(); select pg_notify('walhook', 'deferred')").await;
    tokio::select! {
        biased;
        sent = scene.arrivals("/t", 2) => assert_eq!(sent.len(), 2),
        // Each waits for the lock for five seconds at most; that is when a session would be free.
        ended = calls.join_next() => panic!("a call ended before the retry was sent: {ended:?}"),
    }
    operator.batch_execute("rollback").await.expect("an end");
}
