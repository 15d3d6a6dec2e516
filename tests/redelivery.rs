//! Sending dead events again, from SQL, by the API and by the command.

mod support;

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use support::cluster::TestDatabase;
use support::receiver::{Answer, Request, Script};
use support::scene::{DEADLINE, Scene};
use support::wait::eventually;
use walhook::postgres::Session;

const ITEMS: &str = "create table items (id int primary key)";

async fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(queue: &Session, query: &str) -> T {
    queue.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{error:?} in {query}")).get(0)
}

async fn wait_for_count(queue: &Session, query: &str, expected: i64) {
    let check = || async {
        let count: i64 = value(queue, query).await;
        if count == expected { Ok(()) } else { Err(format!("{count} instead of {expected}: {query}")) }
    };
    eventually("the count", DEADLINE, check).await;
}

async fn wait_for_dead(queue: &Session, expected: i64) {
    wait_for_count(queue, "select count(*) from walhook.events where trigger = 't' and status = 'dead'", expected)
        .await;
}

/// Trigger `t` with 24 dead events: rows 1 to 10 were answered with 500, 11 to 20 with 422, 21 to 24 got no answer. One
/// more of these would be an outage, in which no event dies. Gives the times between them as the attempts tell them: a
/// node knows the server's clock within the way of an answer, which on a busy machine is longer than it takes to go on.
async fn dead_events(scene: &Scene, queue: &Session) -> [String; 2] {
    scene.create("t", "items", "/t", json!({})).await;
    let mut times = Vec::new();
    for (last, answer) in [(10, Answer::status(500)), (20, Answer::status(422)), (24, Answer::close())] {
        scene.receiver.on("/t", Script::always(answer));
        let next = "coalesce((select max(id) from items), 0) + 1";
        scene.execute(&format!("insert into items select i from generate_series({next}, {last}) i")).await;
        wait_for_dead(queue, last).await;
        let attempts = "from walhook.attempts where trigger = 't'";
        let over = format!("select (max(started_at) + interval '1 microsecond')::text {attempts}");
        times.push(value(queue, &over).await);
    }
    scene.receiver.on("/t", Script::default());
    [times.remove(0), times.remove(0)]
}

async fn by_filters(scene: &Scene, queue: &Session) {
    let [after_500, after_422] = dead_events(scene, queue).await;
    let sent = || scene.receiver.requests("/t").len();
    let before = sent();
    // Counting sends nothing, and neither does what is rolled back.
    let counted = [
        (json!({}), 24),
        (json!({"status": 500}), 10),
        (json!({"status": 0}), 4),
        (json!({"status": 503}), 0),
        (json!({"since": after_500}), 14),
        (json!({"until": after_422}), 20),
        (json!({"since": after_500, "until": after_422, "status": 422}), 10),
        (json!({"since": after_500, "status": 500}), 0),
        (json!({"since": "tomorrow"}), 0),
    ];
    for (filter, expected) in counted {
        let mut args = json!({"name": "t", "dry_run": true});
        for (key, value) in filter.as_object().expect("a filter") {
            args[key] = value.clone();
        }
        assert_eq!(scene.succeed("redeliver_events", args).await, json!({"count": expected}), "{filter}");
    }
    queue.batch_execute("begin; select walhook.redeliver_dead('t'); rollback").await.expect("a rollback");
    assert_eq!(value::<i64>(queue, "select count(*) from walhook.deferred").await, 0);

    let answer = scene.succeed("pg_redeliver_events", json!({"name": "t", "status": 422})).await;
    assert_eq!(answer, json!({"count": 10}));
    scene.arrivals("/t", before + 10).await;
    wait_for_dead(queue, 14).await;
    let redelivered: i64 = value(queue, &format!("select walhook.redeliver_dead('t', until => '{after_422}')")).await;
    assert_eq!(redelivered, 10);
    let requests = scene.arrivals("/t", before + 20).await;
    let ids = |from: usize| {
        let mut ids: Vec<i64> = requests[before + from..before + from + 10]
            .iter()
            .filter_map(|request| request.json()["event"]["data"]["new"]["id"].as_i64())
            .collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!((ids(0), ids(10)), ((11..=20).collect(), (1..=10).collect()), "{requests:?}");
    wait_for_dead(queue, 4).await;

    // One that is sent again and dies again is dead once.
    scene.receiver.on("/t", Script::always(Answer::status(500)));
    let one: String = value(queue, "select id::text from walhook.events where status = 'dead' limit 1").await;
    assert!(value::<bool>(queue, &format!("select walhook.redeliver('{one}')")).await);
    scene.arrivals("/t", before + 21).await;
    let again = format!("select count(*) from walhook.events where id = '{one}' and status = 'dead' and attempts = 2");
    wait_for_count(queue, &again, 1).await;
    assert_eq!(value::<i64>(queue, "select count(*) from walhook.dead_events('t')").await, 4);
    assert_eq!(value::<i64>(queue, "select count(*) from walhook.dead_events('t', status => 500)").await, 1);
}

/// A retry that is given up is dead like any other event: it is counted, kept and sent again.
async fn check_skipped(scene: &Scene) {
    let retries = json!({"retry_conf": {"num_retries": 5, "interval_sec": 3600}});
    scene.create("given_up", "items", "/given_up", retries).await;
    scene.receiver.on("/given_up", Script::always(Answer::status(500)));
    scene.execute("insert into items values (0)").await;
    let waiting = "select count(*) from walhook.events where trigger = 'given_up' and status = 'retrying'";
    scene.wait_for_count(waiting, 1).await;
    let id: String = scene.value("select id::text from walhook.events where trigger = 'given_up'", &[]).await;
    scene.succeed("skip_event", json!({"event_id": id})).await;
    let dead = "select count(*) from walhook.dead_events('given_up', status => 500)";
    scene.wait_for_count(dead, 1).await;
    let status = "select status from walhook.events where trigger = 'given_up'";
    assert_eq!(scene.value::<String>(status, &[]).await, "dead");
    scene.receiver.on("/given_up", Script::default());
    assert_eq!(scene.succeed("redeliver_events", json!({"name": "given_up"})).await, json!({"count": 1}));
    scene.arrivals("/given_up", 2).await;
    scene.wait_for_count(dead, 0).await;
}

#[tokio::test]
async fn dead_events_are_sent_again_by_status_and_time() {
    let scene = Scene::start(ITEMS).await;
    let queue = scene.database.connect().await;
    by_filters(&scene, &queue).await;
    for (args, code) in [
        (json!({"name": "nobody"}), "not-exists"),
        (json!({"name": "t", "since": "when it broke"}), "validation-failed"),
        (json!({"name": "t", "until": "2026-13-13"}), "validation-failed"),
    ] {
        let (status, body) = scene.call("redeliver_events", args.clone()).await;
        assert_eq!((status, &body["code"]), (400, &json!(code)), "{args}: {body}");
    }
    check_skipped(&scene).await;
    let unknown = "select walhook.redeliver('01890000-0000-7000-8000-000000000000')";
    let refused = queue.batch_execute(unknown).await.expect_err("no such event");
    assert!(refused.as_db_error().expect("the server's").message().ends_with("not found"), "{refused:?}");
}

#[tokio::test]
async fn dead_events_are_sent_again_where_the_queue_is_in_another_database() {
    let database = TestDatabase::create().await;
    let scene = Scene::start_with(ITEMS, |start| start.with(&["--queue-url", database.url()])).await;
    let queue = database.connect().await;
    by_filters(&scene, &queue).await;
}

#[tokio::test]
async fn the_command_counts_and_sends_again() {
    let scene = Scene::start(ITEMS).await;
    dead_events(&scene, &scene.sql).await;
    let before = scene.receiver.requests("/t").len();
    let run = async |arguments: &[&str]| -> (bool, String) {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_walhook"));
        command.arg("redeliver").args(arguments).args(["--database-url", scene.database.url()]);
        let output = command.stdin(Stdio::null()).output().await.expect("the command");
        let text = String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr });
        (output.status.success(), text.trim().to_owned())
    };
    let counted = run(&["t", "--dry-run", "--since", "yesterday", "--status", "0"]).await;
    assert_eq!(counted, (true, "4 dead events would be sent again".into()));
    assert_eq!(run(&["t", "--status", "500"]).await, (true, "10 dead events are sent again".into()));
    scene.arrivals("/t", before + 10).await;
    let event: String = scene.value("select id::text from walhook.events where status = 'dead' limit 1", &[]).await;
    assert_eq!(run(&["--event", &event]).await, (true, String::new()));
    let requests = scene.arrivals("/t", before + 11).await;
    assert_eq!(requests[before + 10].json()["id"], Value::from(event));
    wait_for_dead(&scene.sql, 13).await;
    let (succeeded, said) = run(&["nobody"]).await;
    assert!(!succeeded && said.contains("event trigger \"nobody\" does not exist"), "{said}");
}

/// A node records what becomes of other events as if nothing were, and of this one once the operator is done.
#[tokio::test]
async fn who_leaves_a_transaction_open_holds_up_only_what_it_is_about() {
    let scene = Scene::start(ITEMS).await;
    scene.receiver.on("/t", Script::first(2, Answer::status(500)));
    scene.create("t", "items", "/t", json!({"retry_conf": {"num_retries": 9, "interval_sec": 5}})).await;
    let operator = scene.database.connect().await;
    scene.execute("insert into items values (1)").await;
    scene.wait_for_count("select count(*) from walhook.deferred where reason = 'retry'", 1).await;
    operator.batch_execute("begin; select walhook.redeliver(event_id) from walhook.deferred").await.expect("a call");
    // Its retry, whose failure cannot be recorded; then others, some of which fail as well.
    scene.arrivals("/t", 2).await;
    scene.receiver.on("/t", Script::first(3, Answer::status(500)));
    scene.execute("insert into items select generate_series(2, 20)").await;
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 19).await;
    assert_eq!(scene.count("select count(*) from walhook.attempt where event_seq = 1").await, 1);
    operator.batch_execute("commit").await.expect("the operator is done");
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 20).await;
    assert_eq!(scene.count("select count(*) from walhook.attempt where event_seq = 1").await, 3);
}

/// Its definition's end comes through the WAL to capture, which goes on with all others.
#[tokio::test]
async fn a_trigger_that_is_deleted_meanwhile_does_not_wait_for_who_left_a_transaction_open() {
    let scene = Scene::start(ITEMS).await;
    scene.receiver.on("/t", Script::always(Answer::status(500)));
    scene.create("t", "items", "/t", json!({"retry_conf": {"num_retries": 9, "interval_sec": 3600}})).await;
    scene.create("other", "items", "/other", json!({})).await;
    scene.execute("insert into items values (1)").await;
    scene.wait_for_count("select count(*) from walhook.deferred where reason = 'retry'", 1).await;
    let operator = scene.database.connect().await;
    operator.batch_execute("begin; select walhook.redeliver(event_id) from walhook.deferred").await.expect("a call");
    scene.succeed("delete_event_trigger", json!({"name": "t"})).await;
    scene.execute("insert into items values (2)").await;
    scene.arrivals("/other", 2).await;
    operator.batch_execute("commit").await.expect("the operator is done");
    // What was left goes with the next start.
    let scene = scene.crash_and_restart().await;
    scene.wait_for_count("select count(*) from walhook.deferred", 0).await;
    assert_eq!(scene.receiver.requests("/t").len(), 1);
}

/// Whoever asks in SQL does not see that a request is under way, and another node does not know of it.
#[tokio::test]
async fn an_event_that_is_redelivered_during_its_last_attempt_begins_anew() {
    let scene = Scene::start(ITEMS).await;
    let failing = Answer::status(500);
    for (name, on_dead, retries) in [("one", "continue", 1), ("two", "hold", 1), ("three", "continue", 2)] {
        let path = format!("/{name}");
        let answers = vec![failing.clone(), failing.clone().after(Duration::from_secs(5)), failing.clone()];
        scene.receiver.on(&path, Script::each(answers));
        let conf = json!({"num_retries": retries, "interval_sec": 0});
        scene.create(name, "items", &path, json!({"retry_conf": conf, "on_dead": on_dead})).await;
    }
    scene.execute("insert into items values (1)").await;
    let sent = |requests: &[Request]| ["/one", "/two", "/three"].iter().all(|path| number_of(requests, path) == 2);
    scene.receiver.wait_until(DEADLINE, sent).await;
    scene.execute("select walhook.redeliver(event_id) from walhook.deferred").await;
    // The first attempt and one retry before, and as many after, the last of which is accepted.
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered' and attempts = 4", 3).await;
    let numbers = "select count(*) from walhook.attempt where number = 0";
    assert_eq!(scene.count(numbers).await, 6, "each of them began twice");
    assert_eq!(scene.count("select count(*) from walhook.deferred").await, 0);
}

/// The attempt that is under way is the first one of a redelivery itself, and the last.
#[tokio::test]
async fn a_redelivery_that_is_asked_for_again_while_it_is_under_way_begins_anew() {
    let scene = Scene::start(ITEMS).await;
    let failing = Answer::status(500);
    let slowly = failing.clone().after(Duration::from_secs(3));
    scene.receiver.on("/t", Script::each(vec![failing, slowly.clone(), slowly]));
    scene.create("t", "items", "/t", json!({"retry_conf": {"num_retries": 0}})).await;
    scene.execute("insert into items values (1)").await;
    let redeliver = "select walhook.redeliver(id) from walhook.event";
    scene.wait_for_count("select count(*) from walhook.events where status = 'dead'", 1).await;
    scene.execute(redeliver).await;
    scene.arrivals("/t", 2).await;
    scene.execute(redeliver).await;
    scene.arrivals("/t", 3).await;
    scene.execute(redeliver).await;
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered' and attempts = 4", 1).await;
}

fn number_of(requests: &[Request], path: &str) -> usize {
    requests.iter().filter(|request| request.path == path).count()
}

/// The node knows that it was given up, and has not recorded that yet.
#[tokio::test]
async fn an_event_that_is_redelivered_just_after_it_was_given_up_is_sent() {
    let scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({"retry_conf": {"num_retries": 9, "interval_sec": 3600}})).await;
    scene.create("other", "items", "/other", json!({})).await;
    scene.receiver.on("/t", Script::first(1, Answer::status(500)));
    scene.execute("insert into items values (1)").await;
    scene.wait_for_count("select count(*) from walhook.deferred where reason = 'retry'", 1).await;
    scene.wait_for_count("select count(*) from walhook.attempt", 2).await;
    let recorder = scene.database.connect().await;
    let stop = "begin; lock table walhook.attempt in share row exclusive mode";
    recorder.batch_execute(stop).await.expect("nothing is recorded");
    scene.receiver.on("/t", Script::default());
    scene.execute("insert into items values (2)").await;
    let waits = "select count(*) from pg_locks where relation = 'walhook.attempt'::regclass and not granted";
    scene.wait_for_count(waits, 1).await;
    scene.execute("select walhook.skip_event(event_id) from walhook.deferred").await;
    // One that reads what is due may have begun before; the next one has not.
    for _ in 0..2 {
        wait_for_a_look_at_what_is_due(&scene).await;
    }
    scene.execute("select walhook.redeliver(event_id) from walhook.deferred").await;
    recorder.batch_execute("commit").await.expect("it is recorded");
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 4).await;
    assert_eq!(scene.receiver.requests("/t").len(), 3);
}

async fn wait_for_a_look_at_what_is_due(scene: &Scene) {
    let now: String = scene.value("select clock_timestamp()::text", &[]).await;
    let looks = format!(
        "select count(*) from pg_stat_activity
         where query like '-- Purpose: when the next deferred event%' and datname = current_database()
           and query_start > '{now}' and state = 'idle'"
    );
    let looks = format!("select ({looks}) > 0");
    let check = || async {
        scene.execute("select pg_notify('walhook', 'deferred')").await;
        scene.value::<bool>(&looks, &[]).await.then_some(()).ok_or("it did not look")
    };
    eventually("a look at what is due", DEADLINE, check).await;
}

/// What was sent behind it is as little recorded, so that both come again in their order.
#[tokio::test]
async fn a_crash_while_a_transaction_is_open_about_an_event_forgets_those_behind_it_as_well() {
    let scene = Scene::start("create table items (id int primary key, n int)").await;
    scene.create("t", "items", "/t", json!({"retry_conf": {"num_retries": 9, "interval_sec": 5}})).await;
    scene.receiver.on("/t", Script::first(1, Answer::status(500)));
    let operator = scene.database.connect().await;
    scene.execute("insert into items values (1, 0); update items set n = 1").await;
    scene.wait_for_count("select count(*) from walhook.deferred where reason = 'parked'", 1).await;
    let lock = "begin; select from walhook.deferred where reason = 'retry' for update";
    operator.batch_execute(lock).await.expect("a lock");
    scene.arrivals("/t", 3).await;
    // What ended before this is recorded by now, as far as it can be.
    scene.execute("insert into items values (2, 0)").await;
    scene
        .wait_for_count("select count(*) from walhook.events where status = 'delivered' and new ->> 'id' = '2'", 1)
        .await;
    let scene = scene.crash_and_restart().await;
    operator.batch_execute("rollback").await.expect("the operator is done");
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 3).await;
    let mut sent: Vec<Value> =
        scene.arrivals("/t", 6).await.iter().map(|one| one.json()["event"]["data"]["new"].clone()).collect();
    sent.retain(|new| new["id"] == 1);
    let sent: Vec<i64> = sent.iter().filter_map(|new| new["n"].as_i64()).collect();
    assert_eq!(sent, [0, 0, 1, 0, 1]);
}
