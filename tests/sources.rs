//! Several sources in one process (`[[source]]`), with their queue in a database of its own.

mod support;

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use support::cluster::TestDatabase;
use support::load::{Dice, LEDGER, Writers, check_delivered};
use support::receiver::{Receiver, Request};
use support::scene::{DEADLINE, change, trigger};
use support::wait::eventually;
use support::walhook::{Start, Walhook};
use tempfile::TempDir;
use walhook::postgres::Session;
use walhook::postgres::cluster::{Cluster, Mode, Options};

const ITEMS: &str = "create table public.items (id bigint generated always as identity primary key, name text)";
/// A source is left alone for half a minute where only somebody's action helps.
const LONG: Duration = Duration::from_secs(120);

/// A `walhook.toml` with these sources, by name and URL.
fn settings(queue: &TestDatabase, sources: &[(&str, &TestDatabase, &str)]) -> TempDir {
    let mut text = format!("queue-url = '{}'\n", queue.url());
    for (name, database, url) in sources {
        let (slot, publication) = (database.slot(), database.publication());
        text += &format!("[[source]]\nname = '{name}'\ndatabase-url = '{url}'\n");
        text += &format!("slot = '{slot}'\npublication = '{publication}'\n");
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join("walhook.toml"), text).expect("settings");
    directory
}

fn start(settings: &TempDir) -> Start {
    let file = settings.path().join("walhook.toml");
    Start::default().with(&["serve", "--log-format", "text", "--config", file.to_str().expect("a path in UTF-8")])
}

/// Two sources and their queue. The fields are dropped in this order.
struct Two {
    walhook: Walhook,
    receiver: Receiver,
    queue: Session,
    settings: TempDir,
    one: TestDatabase,
    other: TestDatabase,
    _queue_database: TestDatabase,
}

impl Two {
    /// Both with these tables, and with a trigger `t` on one of them that sends to a path of the source's name.
    async fn start(one: TestDatabase, other: TestDatabase, ddl: &str, table: &str) -> Two {
        let queue_database = TestDatabase::create().await;
        one.execute(ddl).await;
        other.execute(ddl).await;
        let settings = settings(&queue_database, &[("one", &one, one.url()), ("other", &other, other.url())]);
        let walhook = start(&settings).ready().await;
        let (receiver, queue) = (Receiver::start().await, queue_database.connect().await);
        let two = Two { walhook, receiver, queue, settings, one, other, _queue_database: queue_database };
        for source in ["one", "other"] {
            let url = two.receiver.url(&format!("/{source}"));
            two.succeed("create_event_trigger", trigger("t", table, &url, json!({"source": source}))).await;
        }
        two
    }

    async fn call(&self, kind: &str, args: Value) -> (u16, Value) {
        self.walhook.post("/v1/query", &json!({"type": kind, "args": args})).await
    }

    async fn succeed(&self, kind: &str, args: Value) {
        let (status, body) = self.call(kind, args).await;
        assert_eq!(status, 200, "{kind}: {body}; walhook's log:\n{}", self.walhook.log());
    }

    async fn arrivals(&self, path: &str, count: usize) -> Vec<Request> {
        let enough = |all: &[Request]| all.iter().filter(|request| request.path == path).count() >= count;
        self.receiver.wait_until(DEADLINE, enough).await;
        self.receiver.requests(path)
    }

    /// Waits until so many rows of `walhook.source_status` are as told.
    async fn wait_for_sources(&self, condition: &str, expected: i64) {
        wait_for_sources(&self.queue, &self.walhook, condition, expected).await;
    }
}

/// A source counts as captured a moment before its slot streams.
async fn wait_for_readiness(walhook: &Walhook, expected: u16) {
    let check = || async {
        let answer = walhook.get("/readyz").await;
        if answer.0 == expected { Ok(()) } else { Err(answer) }
    };
    eventually("the readiness", LONG, check).await;
}

async fn wait_for_sources(queue: &Session, walhook: &Walhook, condition: &str, expected: i64) {
    let query = format!("select count(*) from walhook.source_status where {condition}");
    let check = || async {
        let found: i64 = queue.query_one(&query, &[]).await.expect("a count").get(0);
        if found == expected { Ok(()) } else { Err(format!("{found} sources, {condition}; log:\n{}", walhook.log())) }
    };
    eventually("the sources", LONG, check).await;
}

async fn insert(database: &TestDatabase, name: &str) {
    database.execute(&format!("insert into public.items (name) values ('{name}')")).await;
}

/// Its progress is in the queue's database, and what it asks of the stream in the source's.
#[tokio::test]
async fn a_backfill_is_of_one_source_and_goes_on_after_a_kill() {
    const ROWS: usize = 20_000;
    let two = Two::start(TestDatabase::create().await, TestDatabase::create().await, ITEMS, "items").await;
    for database in [&two.one, &two.other] {
        let rows = format!("insert into public.items (name) select 'a' from generate_series(1, {ROWS})");
        database.execute(&rows).await;
    }
    let before = two.arrivals("/other", ROWS).await.len();
    two.succeed("backfill_event_trigger", json!({"name": "t", "source": "other"})).await;
    let begun = "select count(*) from walhook.backfill_progress where looked_at between 1 and 19999";
    let check = || async {
        let found: i64 = two.queue.query_one(begun, &[]).await.expect("a count").get(0);
        if found == 1 { Ok(()) } else { Err(two.walhook.log()) }
    };
    eventually("a part of the backfill", DEADLINE, check).await;
    let Two { walhook, settings, receiver, queue, one, other, _queue_database } = two;
    walhook.kill9().await;
    let walhook = start(&settings).ready().await;
    let two = Two { walhook, settings, receiver, queue, one, other, _queue_database };
    let sent = "select count(*), count(distinct new::jsonb -> 'id') from walhook.event \
                where backfill_id is not null \
                and trigger_id = (select trigger_id from walhook.status where source = 'other')";
    let check = || async {
        let row = two.queue.query_one(sent, &[]).await.expect("counts");
        let found: (i64, i64) = (row.get(0), row.get(1));
        if found == (ROWS as i64, ROWS as i64) { Ok(()) } else { Err((found, two.walhook.log())) }
    };
    eventually("each row once", DEADLINE, check).await;
    let of_backfill = |path: &str| {
        two.receiver.requests(path).iter().filter(|request| request.header("walhook-backfill").is_some()).count()
    };
    two.arrivals("/other", before + ROWS).await;
    assert!(of_backfill("/other") >= ROWS);
    assert_eq!(of_backfill("/one"), 0);
    let check = || async {
        let (_, answer) = two.call("get_backfills", json!({"name": "t", "source": "other"})).await;
        let told = &answer["backfills"][0];
        if (&told["state"], &told["sent"]) == (&json!("done"), &json!(ROWS)) { Ok(()) } else { Err(answer) }
    };
    eventually("its end", DEADLINE, check).await;
}

#[tokio::test]
async fn each_source_has_triggers_events_and_progress_of_its_own() {
    let two = Two::start(TestDatabase::create().await, TestDatabase::create().await, ITEMS, "items").await;
    insert(&two.one, "a").await;
    insert(&two.other, "b").await;
    for (path, name) in [("/one", "a"), ("/other", "b")] {
        let requests = two.arrivals(path, 1).await;
        assert_eq!(change(&requests[0])[2], json!({"id": 1, "name": name}));
    }
    two.wait_for_sources("captured and failure is null and open_gap is null", 2).await;
    let events = "select source, trigger, new ->> 'name', id::text from walhook.events order by source";
    let events = two.queue.query(events, &[]).await.expect("events");
    let found: Vec<[&str; 3]> = events.iter().map(|row| [row.get(0), row.get(1), row.get(2)]).collect();
    assert_eq!(found, [["one", "t", "a"], ["other", "t", "b"]]);

    // An event is known under its own source only.
    let id: &str = events[1].get(3);
    assert_eq!(two.call("redeliver_event", json!({"event_id": id, "source": "one"})).await.1["code"], "not-exists");
    let delivered = "select count(*) = 2 from walhook.events where status = 'delivered'";
    let recorded = || async {
        let done: bool = two.queue.query_one(delivered, &[]).await.expect("a count").get(0);
        if done { Ok(()) } else { Err("not delivered") }
    };
    eventually("both are delivered", DEADLINE, recorded).await;
    two.succeed("redeliver_event", json!({"event_id": id, "source": "other"})).await;
    two.arrivals("/other", 2).await;

    // The trigger of the same name in the other source goes on.
    two.succeed("delete_event_trigger", json!({"name": "t", "source": "one"})).await;
    insert(&two.one, "nobody").await;
    insert(&two.other, "c").await;
    two.arrivals("/other", 3).await;
    assert_eq!(two.receiver.requests("/one").len(), 1);
    for source in ["default", "third"] {
        let (status, body) = two.call("delete_event_trigger", json!({"name": "t", "source": source})).await;
        assert_eq!((status, body["code"].as_str()), (400, Some("not-exists")), "{body}");
    }
    assert_eq!(two.call("delete_event_trigger", json!({"name": "t"})).await.0, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_whose_server_is_down_holds_up_no_other_and_comes_back_by_itself() {
    let mut cluster = Cluster::start(Options::default()).await.expect("a cluster");
    let other = TestDatabase::create_in(&cluster).await;
    let mut two = Two::start(TestDatabase::create().await, other, ITEMS, "items").await;
    insert(&two.other, "before").await;
    two.arrivals("/other", 1).await;

    cluster.stop(Mode::Fast).await.expect("it stopped");
    two.wait_for_sources("source = 'other' and not captured and failure is not null and failed_at is not null", 1)
        .await;
    wait_for_readiness(&two.walhook, 503).await;
    insert(&two.one, "meanwhile").await;
    two.arrivals("/one", 1).await;
    two.wait_for_sources("source = 'one' and captured and failure is null", 1).await;

    cluster.resume().await.expect("it starts again");
    insert(&two.other, "after").await;
    two.arrivals("/other", 2).await;
    two.wait_for_sources("captured and failure is null", 2).await;
    wait_for_readiness(&two.walhook, 200).await;

    // The same when it is down from the start.
    assert!(two.walhook.terminate(DEADLINE).await.success(), "{}", two.walhook.log());
    cluster.stop(Mode::Fast).await.expect("it stopped");
    two.walhook = start(&two.settings).spawn();
    insert(&two.one, "again").await;
    two.arrivals("/one", 2).await;
    two.wait_for_sources("source = 'other' and not captured and failure is not null", 1).await;
    cluster.resume().await.expect("it starts again");
    insert(&two.other, "again").await;
    two.arrivals("/other", 3).await;
    wait_for_readiness(&two.walhook, 200).await;
    drop(two);
}

#[tokio::test]
async fn a_source_that_somebody_has_to_act_on_is_taken_up_once_they_did() {
    let (one, other, queue) =
        (TestDatabase::create().await, TestDatabase::create().await, TestDatabase::create().await);
    one.execute(ITEMS).await;
    let role = format!("weak_{}", other.name());
    other.execute(&format!("create role {role} login password 'secret'")).await;
    other.execute(&format!("grant create on database {} to {role}", other.name())).await;
    let (_, host) = other.url().split_once('@').expect("a URL with a password");
    let url = format!("postgresql://{role}:secret@{host}");
    let settings = settings(&queue, &[("one", &one, one.url()), ("other", &other, &url)]);
    let walhook = start(&settings).spawn();
    let receiver = Receiver::start().await;

    let session = wait_for_queue(&queue).await;
    let refused = format!("source = 'other' and not captured and failure like '%ALTER ROLE \"{role}\" REPLICATION;%'");
    wait_for_sources(&session, &walhook, &refused, 1).await;
    wait_for_sources(&session, &walhook, "source = 'one' and captured", 1).await;
    let create = json!({"type": "create_event_trigger",
                        "args": trigger("t", "items", &receiver.url("/one"), json!({"source": "one"}))});
    assert_eq!(walhook.post("/v1/query", &create).await.0, 200);
    insert(&one, "a").await;
    receiver.wait_until(DEADLINE, |all| all.len() == 1).await;
    let early = json!({"type": "delete_event_trigger", "args": {"name": "t", "source": "other"}});
    let (status, body) = walhook.post("/v1/query", &early).await;
    assert_eq!(status, 500, "{body}");
    assert!(body["error"].as_str().is_some_and(|error| error.contains("is not set up yet")), "{body}");

    other.execute(&format!("alter role {role} replication")).await;
    wait_for_sources(&session, &walhook, "captured and failure is null", 2).await;
    wait_for_readiness(&walhook, 200).await;
    drop(walhook);
    // What walhook made in it is the role's, and goes with the database.
    other.execute(&format!("reassign owned by {role} to current_user; drop owned by {role}; drop role {role}")).await;
}

/// The schema may not be there yet, nor the view have all its columns: each migration commits by itself.
async fn wait_for_queue(queue: &TestDatabase) -> Session {
    let session = queue.connect().await;
    let look = || async { session.query("select captured from walhook.source_status", &[]).await.map(drop) };
    eventually("the queue's schema", DEADLINE, look).await;
    session
}

#[tokio::test]
async fn nothing_is_served_when_no_source_can_be() {
    let (one, other, queue) =
        (TestDatabase::create().await, TestDatabase::create().await, TestDatabase::create().await);
    // Both slots are there and are not walhook's.
    for database in [&one, &other] {
        let slot = database.slot();
        database.execute(&format!("select pg_create_logical_replication_slot('{slot}', 'test_decoding')")).await;
    }
    let settings = settings(&queue, &[("one", &one, one.url()), ("other", &other, other.url())]);
    let mut walhook = start(&settings).spawn();
    assert_eq!(walhook.wait(DEADLINE).await.code(), Some(3), "{}", walhook.log());
    for name in ["one", "other"] {
        let said = format!("source {name}: slot walhook_");
        assert!(walhook.log().contains(&said), "{said:?} is not in:\n{}", walhook.log());
    }
    let session = queue.connect().await;
    wait_for_sources(&session, &walhook, "failure like 'slot % uses plugin test_decoding%' and not captured", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_under_load_lose_nothing_of_either_source() {
    let mut dice = Dice::from_environment();
    let kills: usize = std::env::var("WALHOOK_TEST_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(6);
    let two = Two::start(TestDatabase::create().await, TestDatabase::create().await, LEDGER, "ledger").await;
    let writers = [Writers::start(&two.one, 2, &mut dice), Writers::start(&two.other, 2, &mut dice)];
    let Two { mut walhook, receiver, queue, settings, one, other, _queue_database } = two;
    let port = walhook.port();
    for _ in 0..kills {
        // From before it listens to long after.
        tokio::time::sleep(Duration::from_millis(dice.below(2500))).await;
        walhook.kill9().await;
        walhook = start(&settings).on_port(port).spawn();
    }
    walhook.wait_until_ready().await;
    let two = Two { walhook, receiver, queue, settings, one, other, _queue_database };
    for writers in writers {
        writers.finish().await;
    }
    check_log(&two, "one", &two.one).await;
    check_log(&two, "other", &two.other).await;
    check_delivered(&two.queue, &two.receiver, LONG).await;
    two.wait_for_sources("captured and failure is null and open_gap is null", 2).await;
}

type Versions = HashMap<(i64, i32), i64>;

/// Waits until the queue has exactly one event for each change in a source's ledger (see `support::load`).
async fn check_log(two: &Two, source: &str, database: &TestDatabase) {
    let session = database.connect().await;
    let wanted = "select l.id, v, 1::bigint from public.ledger l cross join generate_series(0, l.n) v";
    let wanted = versions(&session, wanted).await;
    let found = format!(
        "select (new ->> 'id')::bigint, (new ->> 'n')::int, count(*) from walhook.events where source = '{source}' \
         group by 1, 2"
    );
    let check = || async {
        let found = versions(&two.queue, &found).await;
        // Neither what is too many nor what was never written is mended by waiting.
        let extra: Vec<_> = found.iter().filter(|(version, count)| wanted.get(version) != Some(count)).collect();
        assert!(extra.is_empty(), "{source}: {extra:?}; walhook's log:\n{}", two.walhook.log());
        let lost = wanted.len() - found.len();
        if lost == 0 { Ok(()) } else { Err(format!("{lost} of {} events of {source} are missing", wanted.len())) }
    };
    eventually("each change has one event", LONG, check).await;
}

async fn versions(session: &Session, query: &str) -> Versions {
    let rows = session.query(query, &[]).await.unwrap_or_else(|error| panic!("{error:?} in {query}"));
    rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect()
}
