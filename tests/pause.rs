//! Pausing holds events and drops none: by the API, by SQL, and by an endpoint that is gone.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::cluster::TestDatabase;
use support::receiver::{Answer, Script};
use support::scene::{DEADLINE, Scene};
use support::wait::eventually;
use walhook::postgres::Session;

const ITEMS: &str = "create table items (id int primary key, name text)";

/// Status and reason of trigger `t`.
async fn status(queue: &Session) -> (String, Option<String>) {
    let sql =
        "select s.status, s.reason, o.paused from walhook.trigger_status s join walhook.status o using (trigger_id)
               where s.trigger = 't' and s.source = 'default'";
    let row = queue.query_one(sql, &[]).await.expect("the trigger");
    let status: String = row.get(0);
    assert_eq!(row.get::<_, bool>(2), status == "paused", "the views say the same");
    (status, row.get(1))
}

async fn wait_for_status(queue: &Session, expected: &str) -> Option<String> {
    let check = || async {
        let (found, reason) = status(queue).await;
        if found == expected { Ok(reason) } else { Err((found, reason)) }
    };
    eventually("the trigger's status", DEADLINE, check).await
}

/// Waits until delivery has said this so many times.
async fn wait_for_line(scene: &Scene, line: &str, times: usize) {
    let check = || async {
        let log = scene.walhook.log();
        if log.matches(line).count() == times { Ok(()) } else { Err(log) }
    };
    eventually(line, DEADLINE, check).await;
}

async fn wait_for_count(queue: &Session, query: &str, expected: i64) {
    let check = || async {
        let count: i64 =
            queue.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{error:?} in {query}")).get(0);
        if count == expected { Ok(()) } else { Err(format!("{count} instead of {expected}: {query}")) }
    };
    eventually("the count", DEADLINE, check).await;
}

async fn refusal(session: &Session, statement: &str) -> String {
    let error = session.batch_execute(statement).await.expect_err(statement);
    error.as_db_error().expect("an error of the server").message().to_owned()
}

/// Has everything that was committed before come to delivery, and gives how many requests `/t` has had by then: another
/// trigger's later events were delivered.
async fn sent_by_now(scene: &Scene) -> usize {
    for number in 0..2 {
        // All of those before have come.
        let came = scene.receiver.requests("/other").len();
        scene.execute(&format!("insert into other values (gen_random_uuid(), {number})")).await;
        scene.arrivals("/other", came + 1).await;
    }
    scene.receiver.requests("/t").len()
}

/// Tables, and beside trigger `t` one that is never paused.
async fn prepare(scene: &Scene, changes: Value) {
    scene.execute("create table other (id uuid primary key, number int)").await;
    scene.create("other", "other", "/other", json!({})).await;
    scene.create("t", "items", "/t", changes).await;
}

/// Pauses by SQL and by the API, and what belongs to a pause's life.
async fn pauses_and_resumes(scene: &Scene, queue: &Session) {
    prepare(scene, json!({})).await;
    // What is rolled back never was.
    queue.batch_execute("begin; select walhook.pause('t'); rollback").await.expect("a rollback");
    scene.execute("insert into items values (1)").await;
    scene.arrivals("/t", 1).await;
    assert_eq!(status(queue).await, ("active".into(), None));

    let pause = "begin; select walhook.pause(trigger => 't', source => 'default'); commit";
    queue.batch_execute(pause).await.expect("a pause");
    wait_for_line(scene, "paused: its events are held", 1).await;
    assert!(wait_for_status(queue, "paused").await.is_some_and(|reason| reason.starts_with("paused by ")));
    scene.execute("insert into items select i from generate_series(2, 300) i").await;
    scene.succeed("backfill_event_trigger", json!({"name": "t"})).await;
    wait_for_count(queue, "select count(*) from walhook.event where backfill_id is not null", 300).await;
    assert_eq!(sent_by_now(scene).await, 1);
    // Both are idempotent, and a rollback leaves the trigger paused.
    scene.succeed("pause_event_trigger", json!({"name": "t"})).await;
    queue.batch_execute("begin; select walhook.resume('t'); rollback").await.expect("a rollback");
    scene.create("t", "items", "/t", json!({"replace": true, "retry_conf": {"num_retries": 1}})).await;
    assert_eq!(sent_by_now(scene).await, 1, "another definition is no resumption");

    queue.batch_execute("select walhook.resume('t')").await.expect("a resumption");
    scene.arrivals("/t", 600).await;
    wait_for_count(
        queue,
        "select count(distinct id) from walhook.events where trigger = 't' and status = 'delivered'",
        600,
    )
    .await;
    assert_eq!(scene.receiver.requests("/t").len(), 600, "each once");
    scene.succeed("pg_resume_event_trigger", json!({"name": "t"})).await;
    assert_eq!(status(queue).await, ("active".into(), None));

    let unknown = scene.call("pause_event_trigger", json!({"name": "nobody"})).await.1;
    assert_eq!((&unknown["code"], &unknown["path"]), (&json!("not-exists"), &json!("$.args")));
    let refused = refusal(queue, "select walhook.pause('nobody')").await;
    assert!(refused.contains("event trigger \"nobody\" does not exist"), "{refused}");
    // The next trigger of the name is another one.
    scene.succeed("pause_event_trigger", json!({"name": "t"})).await;
    scene.succeed("delete_event_trigger", json!({"name": "t"})).await;
    wait_for_count(queue, "select count(*) from walhook.trigger_pause", 0).await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items values (301)").await;
    scene.arrivals("/t", 601).await;
}

#[tokio::test]
async fn a_paused_trigger_holds_everything_until_it_is_resumed() {
    let scene = Scene::start(ITEMS).await;
    let queue = scene.database.connect().await;
    pauses_and_resumes(&scene, &queue).await;
    // Nobody but who was let may pause; then the right to call it is enough.
    scene.execute("create role caller; grant caller to current_user").await;
    let pause = "set role caller; select walhook.pause('t')";
    assert!(queue.batch_execute(pause).await.is_err());
    scene.execute("grant execute on function walhook.pause to caller").await;
    queue.batch_execute(pause).await.expect("the right to call it is enough");
    scene.execute("revoke all on function walhook.pause from caller; drop role caller").await;
}

#[tokio::test]
async fn a_pause_belongs_to_the_queues_database() {
    let database = TestDatabase::create().await;
    let scene = Scene::start_with(ITEMS, |start| start.with(&["--queue-url", database.url()])).await;
    let queue = database.connect().await;
    pauses_and_resumes(&scene, &queue).await;
    let refused = refusal(&scene.sql, "select walhook.pause('t')").await;
    assert!(refused.contains("queued in another database"), "{refused}");
}

#[tokio::test]
async fn requests_under_way_end_retries_wait_and_a_restart_changes_nothing() {
    let scene = Scene::start(ITEMS).await;
    prepare(&scene, json!({"retry_conf": {"num_retries": 9, "interval_sec": 0}})).await;
    let slow = Answer::status(500).after(Duration::from_secs(6));
    scene.receiver.on("/t", Script::first(4, slow));
    scene.execute("insert into items select i from generate_series(1, 4) i").await;
    scene.arrivals("/t", 4).await;
    scene.succeed("pause_event_trigger", json!({"name": "t"})).await;
    scene.execute("insert into items select i from generate_series(5, 50) i").await;
    let recorded = "select count(*) from walhook.events where trigger = 't' and status = 'retrying'";
    scene.wait_for_count(recorded, 4).await;
    assert_eq!(sent_by_now(&scene).await, 4);

    let scene = scene.crash_and_restart().await;
    assert_eq!(sent_by_now(&scene).await, 4);
    scene.succeed("resume_event_trigger", json!({"name": "t"})).await;
    scene.wait_for_count("select count(*) from walhook.events where trigger = 't' and status = 'delivered'", 50).await;
    assert_eq!(scene.receiver.requests("/t").len(), 4 + 50);
}

#[tokio::test]
async fn an_endpoint_that_is_gone_pauses_its_trigger_and_spends_nothing() {
    let scene = Scene::start(ITEMS).await;
    prepare(&scene, json!({"retry_conf": {"num_retries": 1, "interval_sec": 1}})).await;
    scene.create("picky", "items", "/picky", json!({"retry_conf": {"give_up_on": [410]}})).await;
    scene.receiver.on("/picky", Script::always(Answer::status(410)));
    scene.receiver.on("/t", Script::first(2, Answer::status(410)));
    scene.execute("insert into items values (1)").await;
    scene.arrivals("/t", 2).await;
    let reason = wait_for_status(&scene.sql, "paused").await;
    assert_eq!(reason.as_deref(), Some("the endpoint answered 410 Gone twice"));
    scene.execute("insert into items values (2)").await;
    assert_eq!(sent_by_now(&scene).await, 2);
    scene.wait_for_count("select count(*) from walhook.events where trigger = 'picky' and status = 'dead'", 2).await;
    scene.wait_for_count("select count(*) from walhook.trigger_status where status = 'active'", 2).await;
    let held = "select count(*) from walhook.events where trigger = 't' and status in ('retrying', 'pending')";
    assert_eq!(scene.count(held).await, 2, "nothing is dead");
    wait_for_line(&scene, "answered 410 Gone twice", 1).await;

    scene.succeed("resume_event_trigger", json!({"name": "t"})).await;
    let requests = scene.arrivals("/t", 4).await;
    let retries = |request: &support::receiver::Request| request.json()["delivery_info"]["current_retry"].clone();
    let first = requests[0].json()["id"].clone();
    let of_first: Vec<Value> = requests.iter().filter(|one| one.json()["id"] == first).map(retries).collect();
    assert_eq!(of_first, [0, 1, 1], "the second 410 was no retry spent");
    scene.wait_for_count("select count(*) from walhook.events where trigger = 't' and status = 'delivered'", 2).await;
    assert_eq!(status(&scene.sql).await.0, "active");
}

/// What was sent before comes to its end before the resumption, or after it; and what is recorded after it may have
/// been decided before.
#[tokio::test]
async fn what_was_sent_before_a_resumption_does_not_undo_it() {
    let scene = Scene::start(ITEMS).await;
    prepare(&scene, json!({"retry_conf": {"num_retries": 0}})).await;
    let gone = |seconds| Answer::status(410).after(Duration::from_secs(seconds));
    scene.receiver.on("/t", Script::each(vec![gone(0), gone(0), gone(1), gone(8), gone(8)]));
    let recorder = scene.database.connect().await;
    scene.execute("insert into items select i from generate_series(1, 5) i").await;
    wait_for_status(&scene.sql, "paused").await;
    let stop = "begin; lock table walhook.attempt in share row exclusive mode";
    recorder.batch_execute(stop).await.expect("nothing is recorded");
    let waits = "select count(*) from pg_locks where relation = 'walhook.attempt'::regclass and not granted";
    scene.wait_for_count(waits, 1).await;
    scene.succeed("resume_event_trigger", json!({"name": "t"})).await;
    recorder.batch_execute("commit").await.expect("it is recorded");
    let by = |status: &str| format!("select count(*) from walhook.events where trigger = 't' and status = '{status}'");
    scene.wait_for_count(&by("delivered"), 4).await;
    assert_eq!(scene.count(&by("dead")).await, 1, "the first 410 was an answer as any other");
    assert_eq!(status(&scene.sql).await, ("active".into(), None));
    assert_eq!(scene.walhook.log().matches("answered 410 Gone twice").count(), 1);

    scene.receiver.on("/t", Script::always(Answer::status(410)));
    scene.execute("insert into items values (6), (7)").await;
    wait_for_status(&scene.sql, "paused").await;
}

/// The late answer finds the row of the pause locked.
#[tokio::test]
async fn who_leaves_a_resumption_open_holds_up_nobody() {
    let scene = Scene::start(ITEMS).await;
    prepare(&scene, json!({"retry_conf": {"num_retries": 9, "interval_sec": 1}})).await;
    let gone = |seconds| Answer::status(410).after(Duration::from_secs(seconds));
    scene.receiver.on("/t", Script::each(vec![gone(0), gone(0), gone(2)]));
    scene.execute("insert into items select i from generate_series(1, 3) i").await;
    wait_for_status(&scene.sql, "paused").await;
    let operator = scene.database.connect().await;
    operator.batch_execute("begin; select walhook.resume('t')").await.expect("a resumption");
    scene.wait_for_count("select count(*) from walhook.attempt where verdict = 'paused'", 2).await;
    sent_by_now(&scene).await;
    scene
        .wait_for_count("select count(*) from walhook.events where trigger = 'other' and status = 'delivered'", 2)
        .await;
    let (status, answer) = scene.call("pause_event_trigger", json!({"name": "t"})).await;
    assert_eq!((status, &answer["code"]), (400, &json!("busy")), "{answer}");
    operator.batch_execute("commit").await.expect("it is resumed");
    scene.wait_for_count("select count(*) from walhook.events where trigger = 't' and status = 'delivered'", 3).await;
}

/// Its row of the pause cannot be seen, and cannot be written either.
#[tokio::test]
async fn who_leaves_a_first_pause_open_holds_up_nobody() {
    let scene = Scene::start(ITEMS).await;
    prepare(&scene, json!({"retry_conf": {"num_retries": 9, "interval_sec": 1}})).await;
    scene.receiver.on("/t", Script::always(Answer::status(410)));
    let operator = scene.database.connect().await;
    operator.batch_execute("begin; select walhook.pause('t')").await.expect("a pause");
    scene.execute("insert into items select i from generate_series(1, 3) i").await;
    scene.wait_for_count("select least(count(*), 1) from walhook.attempt where verdict = 'paused'", 1).await;
    sent_by_now(&scene).await;
    let others = "select count(*) from walhook.events where trigger = 'other' and status = 'delivered'";
    scene.wait_for_count(others, 2).await;
    operator.batch_execute("commit").await.expect("it is paused");
    wait_for_status(&scene.sql, "paused").await;
}

/// Without retries, so that whatever had to pay for an answer would be dead.
#[tokio::test]
async fn batches_to_an_endpoint_that_is_gone_are_held_whole_and_pay_nothing() {
    let scene = Scene::start(ITEMS).await;
    let batch = json!({"max_events": 5, "max_wait_ms": 60_000});
    prepare(&scene, json!({"batch": batch, "retry_conf": {"num_retries": 0}})).await;
    scene.receiver.on("/t", Script::always(Answer::status(410)));
    scene.execute("insert into items select i from generate_series(1, 20) i").await;
    let reason = wait_for_status(&scene.sql, "paused").await;
    assert_eq!(reason.as_deref(), Some("the endpoint answered 410 Gone twice"));
    scene.execute("insert into items select i from generate_series(21, 25) i").await;
    let held = "select count(*) from walhook.events where trigger = 't' and status in ('retrying', 'pending')";
    scene.wait_for_count(held, 25).await;
    wait_for_line(&scene, "answered 410 Gone twice", 1).await;

    scene.receiver.on("/t", Script::default());
    scene.succeed("resume_event_trigger", json!({"name": "t"})).await;
    scene.wait_for_count("select count(*) from walhook.events where trigger = 't' and status = 'delivered'", 25).await;
    for request in scene.receiver.requests("/t") {
        let Value::Array(events) = request.json() else { panic!("no array: {request:?}") };
        assert!(events.iter().all(|event| event["delivery_info"]["current_retry"] == 0), "{request:?}");
    }
}
