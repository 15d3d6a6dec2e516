//! Sending a stretch of a trigger's log again: by time, LSN and id, marked, at a rate, through crashes.

mod support;

use std::collections::{HashMap, HashSet};
use std::process::Stdio;

use serde_json::{Value, json};
use support::cluster::TestDatabase;
use support::receiver::{Answer, Request, Script};
use support::scene::{DEADLINE, Scene};
use support::wait::eventually;
use tokio::io::{AsyncBufReadExt, BufReader};
use walhook::postgres::Session;

const ITEMS: &str = "create table items (id int primary key)";

async fn insert(scene: &Scene, queue: &Session, from: i64, to: i64) {
    scene.execute(&format!("insert into items select i from generate_series({from}, {to}) i")).await;
    wait_for_delivered(scene, queue, to).await;
}

/// Waits until so many events of `t` were accepted, each at least once.
async fn wait_for_delivered(scene: &Scene, queue: &Session, expected: i64) {
    let delivered =
        "select count(distinct event_id) from walhook.attempts where trigger = 't' and verdict = 'delivered'";
    let check = || async {
        let count: i64 = queue.query_one(delivered, &[]).await.expect("a count").get(0);
        if count == expected { Ok(()) } else { Err((count, scene.walhook.log())) }
    };
    eventually("deliveries", DEADLINE * 2, check).await;
}

/// Commit time, commit LSN and id of the event of a row.
async fn place(queue: &Session, item: i32) -> [String; 3] {
    let sql =
        "select committed_at::text, commit_lsn::text, id::text from walhook.events where new ->> 'id' = $1::int::text";
    let row = queue.query_one(sql, &[&item]).await.expect("one event");
    [row.get(0), row.get(1), row.get(2)]
}

/// Asks for a replay; gives its id and how many events it has.
async fn replay(scene: &Scene, args: Value) -> (String, i64) {
    let mut all = json!({"name": "t"});
    args.as_object().expect("arguments").iter().for_each(|(key, value)| all[key] = value.clone());
    let answer = scene.succeed("replay_event_trigger", all).await;
    (answer["replay_id"].as_str().unwrap_or_default().to_owned(), answer["events"].as_i64().expect("a count"))
}

async fn status(scene: &Scene, id: &str) -> Value {
    let found = scene.succeed("get_replays", json!({"name": "t"})).await;
    let replays = found["replays"].as_array().expect("replays");
    replays.iter().find(|one| one["id"] == id).unwrap_or_else(|| panic!("{id} in {found}")).clone()
}

async fn wait_for_state(scene: &Scene, id: &str, expected: &str) -> Value {
    let check = || async {
        let found = status(scene, id).await;
        if found["state"] == expected { Ok(found) } else { Err((found, scene.walhook.log())) }
    };
    eventually("the replay's state", DEADLINE * 3, check).await
}

/// The requests of a replay.
fn of_replay(scene: &Scene, id: &str) -> Vec<Request> {
    let marked = |request: &Request| request.header("walhook-replay") == Some(id);
    scene.receiver.requests("/t").into_iter().filter(marked).collect()
}

fn items(requests: &[Request]) -> Vec<i64> {
    let item = |request: &Request| request.json()["event"]["data"]["new"]["id"].as_i64().expect("an id");
    let mut items: Vec<i64> = requests.iter().map(item).collect();
    items.sort_unstable();
    items
}

async fn by_ranges(scene: &Scene, queue: &Session) {
    scene.create("t", "items", "/t", json!({"retry_conf": {"num_retries": 99, "interval_sec": 0}})).await;
    for (from, to) in [(1, 10), (11, 20), (21, 30)] {
        insert(scene, queue, from, to).await;
    }
    let [time, lsn, _] = place(queue, 11).await;
    let [_, _, first] = place(queue, 21).await;
    let [_, _, last] = place(queue, 25).await;
    let dry = async |args: Value| {
        let mut args = args;
        args["dry_run"] = json!(true);
        let (id, events) = replay(scene, args).await;
        assert_eq!(id, "");
        events
    };
    assert_eq!(dry(json!({"from_time": time})).await, 20);
    assert_eq!(dry(json!({"from_time": "tomorrow"})).await, 0);
    assert_eq!(dry(json!({"from_lsn": lsn})).await, 20);
    assert_eq!(dry(json!({"from_lsn": lsn, "to_id": last})).await, 15);
    assert_eq!(dry(json!({"from_id": first, "to_id": last})).await, 5);
    assert_eq!(dry(json!({"from_id": last, "to_id": first})).await, 0);
    let originals: HashMap<Value, Value> =
        scene.receiver.requests("/t").iter().map(|one| (one.json()["id"].clone(), one.json())).collect();
    assert_eq!(originals.len(), 30);
    assert!(scene.receiver.requests("/t").iter().all(|request| request.header("walhook-replay").is_none()));

    let (empty, _) = replay(scene, json!({"from_time": "tomorrow"})).await;
    wait_for_state(scene, &empty, "done").await;
    let (id, events) = replay(scene, json!({"from_id": first, "to_id": last})).await;
    assert_eq!(events, 5);
    let done = wait_for_state(scene, &id, "done").await;
    assert_eq!([&done["queued"], &done["skipped"], &done["waiting"]], [5, 0, 0]);
    let requests = of_replay(scene, &id);
    assert_eq!(items(&requests), (21..=25).collect::<Vec<_>>());
    for request in &requests {
        assert_eq!(originals[&request.json()["id"]], request.json(), "the same event, as it was");
    }

    // A retry of a replayed request is marked, too. What was not sent yet goes out in its turn, without a mark.
    scene.succeed("pause_event_trigger", json!({"name": "t"})).await;
    scene.execute("insert into items values (31)").await;
    let logged = || async {
        let count: i64 = queue.query_one("select count(*) from walhook.event", &[]).await.expect("a count").get(0);
        if count == 31 { Ok(()) } else { Err(count) }
    };
    eventually("the event is in the log", DEADLINE, logged).await;
    let (id, events) = replay(scene, json!({"from_lsn": lsn, "rate": 500})).await;
    assert_eq!(events, 21);
    let held = || async {
        let found = status(scene, &id).await;
        if found["waiting"] == 20 { Ok(found) } else { Err(found) }
    };
    let held = eventually("a replay into a paused trigger waits", DEADLINE, held).await;
    assert_eq!([&held["state"], &held["queued"], &held["skipped"]], [&json!("running"), &json!(20), &json!(1)]);
    assert!(of_replay(scene, &id).is_empty());
    scene.receiver.on("/t", Script::first(21, Answer::status(500)));
    scene.succeed("resume_event_trigger", json!({"name": "t"})).await;
    wait_for_state(scene, &id, "done").await;
    wait_for_delivered(scene, queue, 31).await;
    // Each of the 21 refusals was followed by one more request, whose ever it was.
    let marked = of_replay(scene, &id);
    assert_eq!(items(&marked).into_iter().collect::<HashSet<_>>(), (11..=30).collect());
    let all = scene.receiver.requests("/t");
    let plain: Vec<Request> = all[35..].iter().filter(|one| one.header("walhook-replay").is_none()).cloned().collect();
    assert_eq!(items(&plain).into_iter().collect::<HashSet<_>>(), HashSet::from([31]));
    assert_eq!(marked.len() + plain.len(), 21 + 21);
    assert!(marked.len() > 20, "retries are marked, too");
}

#[tokio::test]
async fn a_stretch_is_sent_again_by_time_lsn_and_id_and_marked() {
    let scene = Scene::start(ITEMS).await;
    let queue = scene.database.connect().await;
    by_ranges(&scene, &queue).await;
    let unknown = "01890000-0000-7000-8000-000000000000";
    for (kind, args, code) in [
        ("replay_event_trigger", json!({"name": "nobody", "from_lsn": "0/1"}), "not-exists"),
        ("replay_event_trigger", json!({"name": "t", "from_id": unknown}), "not-exists"),
        ("replay_event_trigger", json!({"name": "t", "from_lsn": "0/1", "to_id": "x"}), "not-exists"),
        ("replay_event_trigger", json!({"name": "t", "from_lsn": "somewhere"}), "validation-failed"),
        ("replay_event_trigger", json!({"name": "t", "from_time": "some day"}), "validation-failed"),
        ("replay_event_trigger", json!({"name": "t"}), "parse-failed"),
        ("cancel_replay", json!({"replay_id": unknown}), "not-exists"),
    ] {
        let (status, body) = scene.call(kind, args.clone()).await;
        assert_eq!((status, &body["code"]), (400, &json!(code)), "{args}: {body}");
    }
}

#[tokio::test]
async fn a_replay_is_of_the_queues_database() {
    let database = TestDatabase::create().await;
    let scene = Scene::start_with(ITEMS, |start| start.with(&["--queue-url", database.url()])).await;
    let queue = database.connect().await;
    by_ranges(&scene, &queue).await;
}

#[tokio::test]
async fn a_replay_that_is_killed_in_the_middle_goes_on_and_leaves_nothing_out() {
    const EVENTS: i64 = 3_000;
    let scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({})).await;
    insert(&scene, &scene.sql, 1, EVENTS).await;
    let before = scene.receiver.requests("/t").len();
    let (id, events) = replay(&scene, json!({"from_lsn": "0/0"})).await;
    assert_eq!(events, EVENTS);
    scene.arrivals("/t", before + 300).await;
    let most = scene.count("select count(*) from walhook.deferred").await;
    let scene = scene.crash_and_restart().await;
    let done = wait_for_state(&scene, &id, "done").await;
    assert_eq!((&done["queued"], &done["skipped"]), (&json!(EVENTS), &json!(0)), "none was queued twice");
    let sent: HashSet<i64> = items(&of_replay(&scene, &id)).into_iter().collect();
    assert_eq!(sent.len() as i64, EVENTS, "each at least once");
    assert!(most <= 2_000, "{most} are queued at once");
    assert_eq!(scene.count("select count(*) from walhook.deferred").await, 0);
}

#[tokio::test]
async fn a_replay_is_cancelled_and_ends_with_its_trigger() {
    let scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({})).await;
    insert(&scene, &scene.sql, 1, 300).await;
    let (id, _) = replay(&scene, json!({"from_lsn": "0/0", "rate": 1})).await;
    scene.arrivals("/t", 301).await;
    scene.succeed("cancel_replay", json!({"replay_id": id})).await;
    assert_eq!(status(&scene, &id).await["state"], "cancelled");
    scene.wait_for_count("select count(*) from walhook.deferred", 0).await;
    assert!(of_replay(&scene, &id).len() < 300, "it went at its rate until it was cancelled");
    let (status, body) = scene.call("cancel_replay", json!({"replay_id": id})).await;
    assert_eq!((status, &body["code"]), (400, &json!("not-exists")), "it is over: {body}");

    let (id, _) = replay(&scene, json!({"from_lsn": "0/0", "rate": 1})).await;
    scene.succeed("delete_event_trigger", json!({"name": "t"})).await;
    let failed = "select count(*) from walhook.replays where state = 'failed' and error like '%deleted%'";
    scene.wait_for_count(failed, 1).await;
    assert_eq!(scene.value::<i64>("select waiting from walhook.replays where id = $1::text::uuid", &[&id]).await, 0);
}

#[tokio::test]
async fn held_and_replayed_events_of_a_row_keep_their_order() {
    let scene = Scene::start("create table items (id int primary key, n int)").await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items values (1, 0)").await;
    wait_for_delivered(&scene, &scene.sql, 1).await;
    scene.succeed("pause_event_trigger", json!({"name": "t"})).await;
    scene.execute("do $$ begin for i in 1..40 loop update items set n = i; end loop; end $$").await;
    scene.settle().await;
    scene.succeed("resume_event_trigger", json!({"name": "t"})).await;
    wait_for_delivered(&scene, &scene.sql, 41).await;
    let ns = |requests: &[Request]| -> Vec<Value> {
        requests.iter().map(|request| request.json()["event"]["data"]["new"]["n"].clone()).collect()
    };
    let expected: Vec<Value> = (0..=40).map(Value::from).collect();
    assert_eq!(ns(&scene.receiver.requests("/t")), expected, "held");
    let (id, _) = replay(&scene, json!({"from_lsn": "0/0"})).await;
    wait_for_state(&scene, &id, "done").await;
    assert_eq!(ns(&of_replay(&scene, &id)), expected, "replayed");
}

#[tokio::test]
async fn the_command_counts_asks_and_waits() {
    let scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({})).await;
    insert(&scene, &scene.sql, 1, 50).await;
    let [_, _, first] = place(&scene.sql, 41).await;
    let run = async |arguments: &[&str]| -> (Option<i32>, String) {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_walhook"));
        command.args(["replay", "t"]).args(arguments).args(["--database-url", scene.database.url()]);
        let output = command.stdin(Stdio::null()).output().await.expect("the command");
        let text = String::from_utf8_lossy(if output.status.success() { &output.stdout } else { &output.stderr });
        (output.status.code(), text.trim().to_owned())
    };
    let counted = run(&["--from-time", "yesterday", "--dry-run"]).await;
    assert_eq!(counted, (Some(0), "50 events would be sent again".into()));
    let sent = run(&["--from-id", &first, "--rate", "1000"]).await;
    assert_eq!(sent, (Some(0), "done: 10 of 10 events sent".into()));
    assert_eq!(scene.receiver.requests("/t").len(), 60);
    let (code, id) = run(&["--from-lsn", "0/0", "--detach"]).await;
    assert_eq!(code, Some(0), "{id}");
    wait_for_state(&scene, &id, "done").await;
    assert_eq!(of_replay(&scene, &id).len(), 50);
    assert_eq!(run(&[]).await.0, Some(2), "no begin");
}

/// Longer than a session of a pool waits for a lock.
#[tokio::test]
async fn the_command_waits_on_when_it_cannot_look() {
    let scene = Scene::start(ITEMS).await;
    let operator = scene.database.connect().await;
    scene.create("t", "items", "/t", json!({})).await;
    insert(&scene, &scene.sql, 1, 10).await;
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_walhook"));
    command.args(["replay", "t", "--from-lsn", "0/0", "--rate", "5", "--database-url", scene.database.url()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut command = command.spawn().expect("the command");
    let mut said = BufReader::new(command.stderr.take().expect("a pipe")).lines();
    let mut hear = async |text: &str| {
        let heard = async { while !said.next_line().await.expect("a line").expect("more lines").contains(text) {} };
        tokio::time::timeout(DEADLINE, heard).await.expect(text);
    };
    hear("running: ").await;
    operator.batch_execute("begin; lock table walhook.replay").await.expect("a lock");
    hear("cannot be looked at: another session holds what this is about").await;
    operator.batch_execute("commit").await.expect("the end");
    let output = tokio::time::timeout(DEADLINE, command.wait_with_output()).await.expect("an end").expect("well");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "done: 10 of 10 events sent\n");
    assert_eq!(output.status.code(), Some(0));
}

/// A replay comes to an event that an operator redelivers; it goes on when that is over, and others do not wait.
#[tokio::test]
async fn who_leaves_a_transaction_open_holds_up_no_other_replay() {
    let scene = Scene::start(ITEMS).await;
    let queue = scene.database.connect().await;
    scene.create("t", "items", "/t", json!({})).await;
    insert(&scene, &queue, 1, 20).await;
    let operator = scene.database.connect().await;
    let redeliver = "begin; select walhook.redeliver(id) from walhook.event where new::json ->> 'id' = '5'";
    operator.batch_execute(redeliver).await.expect("a call");
    let [from, _, _] = place(&queue, 1).await;
    let (waits, events) = replay(&scene, json!({"from_time": from})).await;
    assert_eq!(events, 20);
    let [_, _, id] = place(&queue, 10).await;
    let (goes_on, events) = replay(&scene, json!({"from_id": id})).await;
    assert_eq!(events, 11);
    wait_for_state(&scene, &goes_on, "done").await;
    assert_eq!(status(&scene, &waits).await["state"], "running");
    operator.batch_execute("commit").await.expect("the operator is done");
    wait_for_state(&scene, &waits, "done").await;
}

/// A retry of it waits, for which somebody asked.
#[tokio::test]
async fn what_is_redelivered_outlives_the_replay_that_it_came_with() {
    let scene = Scene::start(ITEMS).await;
    let queue = scene.database.connect().await;
    scene.create("t", "items", "/t", json!({"retry_conf": {"num_retries": 9, "interval_sec": 3600}})).await;
    insert(&scene, &queue, 1, 100).await;
    wait_for_delivered(&scene, &queue, 100).await;
    scene.receiver.on("/t", Script::first(1, Answer::status(500)));
    let (id, _) = replay(&scene, json!({"from_lsn": "0/1", "rate": 1})).await;
    scene.wait_for_count("select count(*) from walhook.deferred where reason = 'retry'", 1).await;
    scene.execute("select walhook.redeliver(event_id) from walhook.deferred where reason = 'retry'").await;
    scene.succeed("cancel_replay", json!({"replay_id": id})).await;
    scene.wait_for_count("select count(*) from walhook.deferred where replay_id is not null", 0).await;
    assert_eq!(scene.count("select count(*) from walhook.deferred where reason = 'redelivery'").await, 1);
}

/// With this rate twenty wait at most, and the next are made due when there are ten.
#[tokio::test]
async fn a_replay_goes_on_beside_those_of_its_events_that_wait_for_a_retry() {
    let scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({"retry_conf": {"num_retries": 9, "interval_sec": 3600}})).await;
    insert(&scene, &scene.sql, 1, 24).await;
    scene.receiver.on("/t", Script::first(12, Answer::status(500)));
    let (id, events) = replay(&scene, json!({"from_lsn": "0/0", "rate": 2})).await;
    assert_eq!(events, 24);
    let is_marked = |request: &&Request| request.header("walhook-replay") == Some(id.as_str());
    scene.receiver.wait_until(DEADLINE, |requests| requests.iter().filter(is_marked).count() == 24).await;
    scene.wait_for_count("select count(*) from walhook.events where status = 'retrying'", 12).await;
    assert_eq!(status(&scene, &id).await["state"], "running");
}
