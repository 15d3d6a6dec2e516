//! The queue in another database than the source (`--queue-url`).

mod support;

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};
use support::cluster::TestDatabase;
use support::receiver::{Answer, Receiver, Request, Script};
use support::scene::{DEADLINE, Scene};
use support::walhook::Start;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use uuid::Uuid;
use walhook::postgres::Session;
use walhook::postgres::cluster::{Cluster, Mode, Options};
use walhook::queue::{self, Version};

const ITEMS: &str = "create table public.items (id bigint generated always as identity primary key, name text)";

/// A scene whose queue is in a database of its own; the session is with that one.
async fn apart(ddl: &str) -> (Scene, TestDatabase, Session) {
    let queue = TestDatabase::create().await;
    let scene = Scene::start_with(ddl, |start| start.with(&["--queue-url", queue.url()])).await;
    let session = queue.connect().await;
    (scene, queue, session)
}

async fn count(session: &Session, query: &str) -> i64 {
    session.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{error:?} in {query}")).get(0)
}

async fn wait_for_count(session: &Session, query: &str, expected: i64) {
    let check = || async {
        let found = count(session, query).await;
        if found == expected { Ok(()) } else { Err(format!("{found} instead of {expected}: {query}")) }
    };
    support::wait::eventually("the count", DEADLINE, check).await;
}

#[tokio::test]
async fn events_attempts_and_progress_are_in_the_queues_database_only() {
    let (scene, _queue, queue) = apart(ITEMS).await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items (name) select 'a' from generate_series(1, 50)").await;
    scene.execute("update items set name = 'b' where id = 1; delete from items where id = 2").await;
    scene.arrivals("/t", 52).await;
    wait_for_count(&queue, "select delivered from walhook.status where trigger = 't' and source = 'default'", 52).await;
    for table in ["event", "attempt", "deferred", "cursor", "progress", "activation", "gap"] {
        assert_eq!(scene.count(&format!("select count(*) from walhook.{table}")).await, 0, "{table} in the source");
    }
    // The catalogue stays where the tables are; the queue has what it needs of it.
    assert_eq!(scene.count("select count(*) from walhook.watched_table").await, 1);
    assert_eq!(count(&queue, "select count(*) from walhook.watched_table").await, 0);
    assert_eq!(count(&queue, "select count(*) from walhook.trigger where deleted_at is null").await, 1);
    assert_eq!(count(&queue, "select count(*) from walhook.source_status where captured and failure is null").await, 1);
}

#[tokio::test]
async fn a_failing_event_waits_there_and_can_be_redelivered_and_invoked() {
    let (scene, _queue, queue) = apart(ITEMS).await;
    scene.receiver.on("/t", Script::first(1, Answer::status(500)));
    scene.create("t", "items", "/t", json!({"enable_manual": true})).await;
    scene.execute("insert into items (name) values ('a')").await;
    wait_for_count(&queue, "select count(*) from walhook.events where status = 'dead'", 1).await;
    let id: String = queue.query_one("select id::text from walhook.events", &[]).await.expect("an event").get(0);
    scene.succeed("redeliver_event", json!({"event_id": id})).await;
    scene.arrivals("/t", 2).await;
    scene.succeed("invoke_event_trigger", json!({"name": "t", "payload": {"by": "hand"}})).await;
    let requests = scene.arrivals("/t", 3).await;
    assert_eq!(requests[2].json()["event"]["data"]["new"], json!({"by": "hand"}));
    wait_for_count(&queue, "select count(*) from walhook.events where status = 'delivered'", 2).await;
}

#[tokio::test]
async fn definitions_change_in_commit_order_and_deliveries_follow_at_once() {
    let (scene, _queue, queue) = apart(ITEMS).await;
    scene.create("t", "items", "/one", json!({})).await;
    scene.execute("insert into items (name) values ('one')").await;
    scene.arrivals("/one", 1).await;
    scene.create("t", "items", "/two", json!({"replace": true})).await;
    scene.execute("insert into items (name) values ('two')").await;
    let changes = scene.changes("/two", 1).await;
    assert_eq!(changes[0][2]["name"], "two");
    scene.succeed("delete_event_trigger", json!({"name": "t"})).await;
    scene.execute("insert into items (name) values ('nobody')").await;
    // The same name again is another trigger.
    scene.create("t", "items", "/three", json!({})).await;
    scene.execute("insert into items (name) values ('three')").await;
    let changes = scene.changes("/three", 1).await;
    assert_eq!(changes[0][2]["name"], "three");
    assert_eq!(scene.receiver.count(), 3);
    wait_for_count(&queue, "select count(*) from walhook.trigger where deleted_at is not null", 1).await;
    wait_for_count(&queue, "select count(*) from walhook.activation where watch is null", 1).await;
}

#[tokio::test]
async fn what_waits_for_a_deleted_trigger_goes_with_it() {
    let (scene, _queue, queue) = apart(ITEMS).await;
    scene.receiver.on("/t", Script::always(Answer::status(500)));
    let retries = json!({"retry_conf": {"num_retries": 5, "interval_sec": 3600, "timeout_sec": 10}});
    scene.create("t", "items", "/t", retries).await;
    scene.execute("insert into items (name) values ('a')").await;
    wait_for_count(&queue, "select count(*) from walhook.deferred", 1).await;
    scene.succeed("delete_event_trigger", json!({"name": "t"})).await;
    wait_for_count(&queue, "select count(*) from walhook.deferred", 0).await;
    wait_for_count(&queue, "select count(*) from walhook.cursor", 0).await;
}

/// The slot stands where the old queue left it, behind a replacement: each change counts as what was defined then.
#[tokio::test]
async fn a_new_queue_begins_with_the_definitions_of_the_place_where_its_slot_stands() {
    let mut scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({"update": null, "delete": null})).await;
    // As of a cluster whose dump this database was restored from: its positions mean nothing here.
    scene.execute("update walhook.trigger_version set made_lsn = 'FFFFFFFF/0', system_identifier = '1'").await;
    scene.execute("insert into items (name) values ('first')").await;
    scene.arrivals("/t", 1).await;
    assert!(scene.walhook.terminate(DEADLINE).await.success(), "{}", scene.walhook.log());
    scene.execute("insert into items (name) values ('inserts are watched')").await;
    scene.walhook = Start::serve(&scene.database).with(&["--only", "api"]).spawn();
    scene.walhook.wait_until_ready().await;
    scene.create("t", "items", "/t", json!({"insert": null, "delete": null, "replace": true})).await;
    scene.create("u", "items", "/u", json!({})).await;
    scene
        .execute("insert into items (name) values ('not by t'); update items set name = 'updates are' where id = 1")
        .await;
    assert!(scene.walhook.terminate(DEADLINE).await.success(), "{}", scene.walhook.log());
    let queue = TestDatabase::create().await;
    scene.walhook = Start::serve(&scene.database).with(&["--queue-url", queue.url()]).ready().await;
    scene.arrivals("/t", 3).await;
    scene.arrivals("/u", 2).await;
    let log = "select string_agg(concat_ws(' ', trigger, operation, new::json ->> 'name'), ', '
                                 order by operation, trigger)
               from walhook.events";
    let logged: String = queue.connect().await.query_one(log, &[]).await.expect("the log").get(0);
    let expected = "t INSERT inserts are watched, u INSERT not by t, t UPDATE updates are, u UPDATE updates are";
    assert_eq!(logged, expected);
}

/// What the API could not tell the queue, capture tells it, in the order of the WAL.
#[tokio::test]
async fn a_catalogue_that_changed_while_nobody_looked_reaches_the_queue_through_the_wal() {
    let (mut scene, queue_database, queue) = apart(ITEMS).await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items (name) values ('before')").await;
    scene.arrivals("/t", 1).await;
    assert!(scene.walhook.terminate(DEADLINE).await.success(), "{}", scene.walhook.log());
    // As a delete of a process that died right after its commit.
    scene
        .execute(
            "begin; insert into items (name) values ('still watched');
             insert into walhook.trigger_version (trigger_id, version, source_id, watch, definition)
             select id, 2, source_id, null, definition from walhook.trigger;
             update walhook.trigger set version = 2, deleted_at = now();
             commit; insert into items (name) values ('not watched')",
        )
        .await;
    let Scene { receiver, sql, database, .. } = scene;
    let walhook = Start::serve(&database).with(&["--queue-url", queue_database.url()]).ready().await;
    let scene = Scene { walhook, receiver, sql, database };
    wait_for_count(&queue, "select count(*) from walhook.activation where watch is null", 1).await;
    assert_eq!(count(&queue, "select count(*) from walhook.trigger where deleted_at is null").await, 0);
    scene.create("u", "items", "/u", json!({})).await;
    scene.execute("insert into items (name) values ('after')").await;
    assert_eq!(scene.changes("/u", 1).await[0][2]["name"], "after");
    assert_eq!(count(&queue, "select count(*) from walhook.event where new like '%not watched%'").await, 0);
}

#[tokio::test]
async fn a_slot_ahead_of_the_queue_is_a_gap() {
    let (mut scene, queue_database, queue) = apart(ITEMS).await;
    scene.create("t", "items", "/t", json!({})).await;
    assert!(scene.walhook.terminate(DEADLINE).await.success(), "{}", scene.walhook.log());
    scene.execute("insert into items (name) values ('lost')").await;
    let slot = scene.database.slot();
    scene.execute(&format!("select pg_replication_slot_advance('{slot}', pg_current_wal_lsn())")).await;
    let start = || Start::serve(&scene.database).with(&["--queue-url", queue_database.url()]);
    let mut refused = start().spawn();
    assert_eq!(refused.wait(DEADLINE).await.code(), Some(3), "{}", refused.log());
    assert!(refused.log().contains("was recreated or moved on without walhook"), "{}", refused.log());
    let open = "select count(*) from walhook.source_status where open_gap is not null and not captured";
    assert_eq!(count(&queue, open).await, 1);
    let walhook = start().with(&["--accept-gap"]).ready().await;
    let Scene { receiver, sql, database, .. } = scene;
    let scene = Scene { walhook, receiver, sql, database };
    scene.execute("insert into items (name) values ('later')").await;
    assert_eq!(scene.changes("/t", 1).await[0][2]["name"], "later");
    assert_eq!(count(&queue, "select count(*) from walhook.gap where accepted_at is not null").await, 1);
}

/// A queue that begins anew beside a source with a catalogue and a slot goes on where the slot stands.
#[tokio::test]
async fn a_source_that_had_its_queue_beside_it_can_move_it() {
    let mut scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items (name) values ('a')").await;
    scene.arrivals("/t", 1).await;
    assert!(scene.walhook.terminate(DEADLINE).await.success(), "{}", scene.walhook.log());
    scene.execute("insert into items (name) values ('b')").await;
    let queue = TestDatabase::create().await;
    let Scene { receiver, sql, database, .. } = scene;
    let walhook = Start::serve(&database).with(&["--queue-url", queue.url()]).ready().await;
    let scene = Scene { walhook, receiver, sql, database };
    scene.execute("insert into items (name) values ('c')").await;
    // What was not acknowledged yet at the stop comes again, with the same id.
    let all = |requests: &[Request]| ["a", "b", "c"].iter().all(|name| names(requests).contains(*name));
    let requests = scene.receiver.wait_until(DEADLINE, all).await;
    let ids: HashSet<String> = requests.iter().map(|request| request.json()["id"].to_string()).collect();
    assert_eq!(ids.len(), 3, "{requests:?}");
}

fn names(requests: &[Request]) -> HashSet<String> {
    let name = |request: &Request| request.json()["event"]["data"]["new"]["name"].as_str().map(ToOwned::to_owned);
    requests.iter().filter_map(name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_whose_server_restarts_is_waited_for() {
    let mut cluster = Cluster::start(Options::default()).await.expect("a cluster");
    let queue = TestDatabase::create_in(&cluster).await;
    let scene = Scene::start_with(ITEMS, |start| start.with(&["--queue-url", queue.url()])).await;
    scene.create("t", "items", "/t", json!({})).await;
    for (round, mode) in [(1, Mode::Fast), (2, Mode::Immediate)] {
        scene.execute("insert into items (name) select 'a' from generate_series(1, 100)").await;
        scene.arrivals("/t", 100).await;
        if let Err(error) = cluster.restart(mode).await {
            panic!("restart {round}: {error}; walhook's log:\n{}", scene.walhook.log());
        }
        scene.execute("insert into items (name) select 'b' from generate_series(1, 100)").await;
        let session = queue.connect().await;
        wait_for_count(&session, "select count(*) from walhook.event", round * 200).await;
        support::load::check_delivered(&session, &scene.receiver, DEADLINE).await;
    }
    drop((scene, queue));
}

/// The lock on the source goes with that session: another node could take the source and wait for its slot in vain.
#[tokio::test]
async fn an_idle_capture_notices_that_its_session_with_the_queue_ended() {
    let (scene, database, queue) = apart(ITEMS).await;
    let captured = "select count(*) from walhook.source_status where captured";
    wait_for_count(&queue, captured, 1).await;
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where application_name = 'walhook capture' and datname = ";
    assert_eq!(count(&queue, &format!("{end} '{}'", database.name())).await, 1);
    let noticed = || async {
        let log = scene.walhook.log();
        if log.contains("the session that writes the queue was closed") { Ok(()) } else { Err(log) }
    };
    support::wait::eventually("a word in the log", DEADLINE, noticed).await;
    wait_for_count(&queue, captured, 1).await;
}

#[tokio::test]
async fn what_keeps_a_trigger_from_working_is_said_in_the_queues_database() {
    let (scene, _database, queue) = apart(ITEMS).await;
    scene.create("t", "items", "/t", json!({"update": {"columns": ["name"]}})).await;
    wait_for_count(&queue, "select count(*) from walhook.trigger_status where status = 'active'", 1).await;
    scene.execute("alter table items drop column name").await;
    let degraded = "select count(*) from walhook.trigger_status where status = 'degraded' and reason like '%name%'";
    wait_for_count(&queue, degraded, 1).await;
}

#[tokio::test]
async fn everything_missing_in_both_databases_is_said_at_once() {
    let queue = TestDatabase::create_with("encoding 'LATIN1' locale 'C' template template0").await;
    let (source, receiver) = (TestDatabase::create().await, Receiver::start().await);
    let role = format!("weak_{}", source.name());
    source.execute(&format!("create role {role} login password 'secret'")).await;
    let as_role = |database: &TestDatabase| {
        let (_, host) = database.url().split_once('@').expect("a URL with a password");
        format!("postgresql://{role}:secret@{host}")
    };
    let (source_url, queue_url) = (as_role(&source), as_role(&queue));
    let slot = source.slot();
    let arguments =
        ["serve", "--log-format", "text", "--database-url", &source_url, "--queue-url", &queue_url, "--slot", &slot];
    let mut walhook = Start::default().with(&arguments).spawn();
    assert_eq!(walhook.wait(DEADLINE).await.code(), Some(3), "{}", walhook.log());
    let log = walhook.log();
    for statement in [
        format!("ALTER ROLE \"{role}\" REPLICATION;"),
        format!("GRANT CREATE ON DATABASE \"{}\" TO \"{role}\";", source.name()),
        format!("GRANT CREATE ON DATABASE \"{}\" TO \"{role}\";", queue.name()),
        "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0;".to_owned(),
    ] {
        assert!(log.contains(&statement), "{statement} is not in:\n{log}");
    }
    source.execute(&format!("drop role {role}")).await;
    drop(receiver);
}

#[tokio::test]
async fn what_writers_say_and_new_names_reach_it_through_the_wal() {
    let (scene, _queue, queue) = apart("create schema shop; create table shop.items (id int primary key)").await;
    scene.create("t", "items", "/t", json!({"table": {"schema": "shop", "name": "items"}})).await;
    let paid = json!({"name": "paid", "type": "paid", "webhook": scene.receiver.url("/paid")});
    scene.succeed("create_event_trigger", paid).await;
    scene
        .execute(
            "begin; select walhook.emit('paid', '{\"order\": 1}'); rollback;
             begin; select walhook.set_context('{\"x-hasura-user-id\": \"42\"}'); insert into shop.items values (1);
             select walhook.emit('paid', '{\"order\": 2}'); commit;
             alter schema shop rename to store",
        )
        .await;
    let event = scene.arrivals("/t", 1).await[0].json()["event"].clone();
    assert_eq!(event["session_variables"], json!({"x-hasura-user-id": "42"}));
    let paid = scene.arrivals("/paid", 1).await;
    assert_eq!(paid[0].json()["event"]["data"]["new"], json!({"order": 2}), "{}", paid[0].json());
    // Before Postgres 16 the stream does not tell of a renamed schema: names are compared every few seconds.
    let renamed = || async {
        scene.execute("insert into store.items select max(id) + 1 from store.items").await;
        let query = "select schema_name from walhook.events where trigger = 't' order by seq desc limit 1";
        let name: String = queue.query_one(query, &[]).await.expect("an event").get(0);
        if name == "store" { Ok(()) } else { Err(name) }
    };
    support::wait::eventually("the new name", DEADLINE, renamed).await;
    assert_eq!(scene.count("select count(*) from walhook.event").await, 0);
}

/// The API and capture tell the queue of a definition at the same moment.
#[tokio::test]
async fn a_definition_is_adopted_by_several_at_once() {
    const SESSIONS: usize = 6;
    let (scene, queue_database, queue) = apart(ITEMS).await;
    scene.create("t", "items", "/t", json!({})).await;
    let row = queue.query_one("select definition::text from walhook.trigger", &[]).await.expect("the trigger");
    let definition: Value = serde_json::from_str(row.get(0)).expect("JSON");
    let barrier = Arc::new(Barrier::new(SESSIONS));
    let mut tasks = JoinSet::new();
    for _ in 0..SESSIONS {
        let (session, definition, barrier) = (queue_database.connect().await, definition.clone(), barrier.clone());
        tasks.spawn(async move {
            for round in 1..=100 {
                barrier.wait().await;
                let mut named = definition.clone();
                named["name"] = json!(format!("t{round}"));
                let trigger_id = Uuid::from_u128(round);
                let version = Version { trigger_id, version: 1, definition: named.to_string(), ended: false };
                queue::adopt(&*session, 1, &[version]).await.unwrap_or_else(|error| panic!("{round}: {error}"));
            }
        });
    }
    tasks.join_all().await;
    wait_for_count(&queue, "select count(*) from walhook.trigger where name like 't_%'", 100).await;
}
