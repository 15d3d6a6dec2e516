//! `walhook serve` from the outside: what it refuses, how it starts and stops, who takes over.

mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use support::cluster::{TestDatabase, shared};
use support::receiver::{Answer, Receiver, Script};
use support::scene::{DEADLINE, Scene, trigger};
use support::wait::eventually;
use support::walhook::Start;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use walhook::postgres::cluster::{Cluster, Options};
use walhook::postgres::lock_setup;

const ITEMS: &str = "create table public.items (id bigint generated always as identity primary key, name text)";

/// It ends by itself with this status, and says all of this.
async fn check_refusal(start: Start, status: i32, sentences: &[&str]) {
    let mut walhook = start.spawn();
    let ended = walhook.wait(DEADLINE).await;
    let log = walhook.log();
    assert_eq!(ended.code(), Some(status), "{log}");
    for sentence in sentences {
        assert!(log.contains(sentence), "{sentence:?} is not in:\n{log}");
    }
}

/// Makes a role that may log in with the password `secret`; gives its URL for a database.
async fn role(database: &TestDatabase, name: &str, rights: &str) -> String {
    database.execute(&format!("create role {name} login password 'secret' {rights}")).await;
    let (_, host) = database.url().split_once('@').expect("a URL with a password");
    format!("postgresql://{name}:secret@{host}")
}

#[tokio::test]
async fn everything_missing_in_the_database_is_listed_at_once() {
    let settings = [("wal_level", "replica"), ("max_replication_slots", "0")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let cluster = Cluster::start(Options { settings, ..Options::default() }).await.expect("a cluster");
    let database = TestDatabase::create_in(&cluster).await;
    let url = role(&database, "weak", "").await;
    let start = Start::default().with(&["serve", "--log-format", "text", "--database-url", &url, "--slot", "Bad Slot"]);
    let grant = format!("GRANT CREATE ON DATABASE \"{}\" TO \"weak\";", database.name());
    let sentences = [
        "wal_level is replica",
        "ALTER SYSTEM SET wal_level = 'logical';",
        "ALTER ROLE \"weak\" REPLICATION;",
        &grant,
        "ALTER SYSTEM SET max_replication_slots = 4;",
        "Bad Slot",
    ];
    check_refusal(start, 3, &sentences).await;
    let schemas = "select count(*) from pg_namespace where nspname = 'walhook'";
    let row = database.connect().await.query_one(schemas, &[]).await.expect("a count");
    assert_eq!(row.get::<_, i64>(0), 0, "something was made all the same");
    // The database first: it cannot be dropped without its cluster.
    drop(database);
}

/// Postgres takes any stream for a standby there: the application's commits would wait for what waits for them.
#[tokio::test]
async fn a_server_that_waits_for_whoever_streams_is_refused() {
    let cluster = Cluster::start(Options::default()).await.expect("a cluster");
    let database = TestDatabase::create_in(&cluster).await;
    database.execute("alter system set synchronous_standby_names = 'ANY 1 (a, *)'").await;
    database.execute("select pg_reload_conf()").await;
    let start = Start::serve(&database).with(&["--log-format", "text"]);
    let cure = "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (replica)'; SELECT pg_reload_conf();";
    check_refusal(start, 3, &["synchronous_standby_names is 'ANY 1 (a, *)'", cure]).await;
    database.execute("alter system reset synchronous_standby_names").await;
    database.execute("select pg_reload_conf()").await;
    drop(database);
}

/// Such a server is refused for its `wal_level`: whether one would let the role replicate cannot be seen here.
#[tokio::test]
async fn a_role_may_stand_for_the_right_to_replicate() {
    let settings = vec![("wal_level".to_owned(), "replica".to_owned())];
    let cluster = Cluster::start(Options { settings, ..Options::default() }).await.expect("a cluster");
    let database = TestDatabase::create_in(&cluster).await;
    let url = role(&database, "weak", "").await;
    database.execute("create role rds_replication").await;
    let start = Start::default().with(&["serve", "--log-format", "text", "--database-url", &url]);
    check_refusal(start.clone(), 3, &["wal_level is replica", "GRANT rds_replication TO \"weak\";"]).await;
    database.execute("grant rds_replication to weak").await;
    let mut walhook = start.spawn();
    assert_eq!(walhook.wait(DEADLINE).await.code(), Some(3), "{}", walhook.log());
    let log = walhook.log();
    assert!(log.contains("wal_level is replica") && !log.contains("may not replicate"), "{log}");
    drop(database);
}

#[tokio::test]
async fn every_bad_setting_is_listed_at_once() {
    let start = Start::default().with(&[
        "serve",
        "--grace",
        "soon",
        "--only",
        "everything",
        "--replica-identity",
        "most",
        "--log-format",
        "xml",
    ]);
    let sentences = ["--database-url is missing", "grace", "everything", "--replica-identity", "--log-format"];
    check_refusal(start.clone(), 2, &sentences).await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    let text = "database-url = \"postgres://me:hush-hush@db/app\"\nlisten-on = \"x\"\nonly = 3\n";
    std::fs::write(file.path(), text).expect("a file");
    let path = file.path().to_str().expect("a path");
    let sentences = [
        "line 2: unknown key \"listen-on\"; the nearest one is \"listen\"",
        "line 3: only is of type integer",
        "--grace \"soon\"",
        "--only \"everything\"",
    ];
    check_refusal(start.with(&["--config", path]), 2, &sentences).await;
    check_refusal(Start::default().with(&["serve", "--unheard-of"]), 2, &["--unheard-of"]).await;
}

#[tokio::test]
async fn a_wrong_password_is_said_without_the_password() {
    let database = TestDatabase::create().await;
    let (_, host) = database.url().split_once('@').expect("a URL with a password");
    let url = format!("postgresql://postgres:hush-hush@{host}");
    let mut walhook = Start::default().with(&["serve", "--database-url", &url]).spawn();
    assert_eq!(walhook.wait(DEADLINE).await.code(), Some(3), "{}", walhook.log());
    assert!(walhook.log().contains("28P01"), "{}", walhook.log());
    assert!(!walhook.log().contains("hush"), "{}", walhook.log());
}

#[tokio::test]
async fn a_role_with_the_documented_rights_is_enough() {
    let database = TestDatabase::create().await;
    let name = format!("role_{}", database.name());
    let url = role(&database, &name, "replication").await;
    database
        .execute(&format!(
            "grant create on database {} to {name}; grant create on schema public to {name}; \
                               set role {name}; {ITEMS}",
            database.name()
        ))
        .await;
    let (slot, publication, receiver) = (database.slot(), database.publication(), Receiver::start().await);
    let arguments = ["serve", "--database-url", &url, "--slot", &slot, "--publication", &publication];
    // A busy machine makes warnings as well.
    let start = || Start::default().with(&arguments).with(&["--node-timeout", "60s"]);
    let walhook = start().ready().await;
    let args = support::scene::trigger("t", "items", &receiver.url("/t"), json!({"enable_manual": true}));
    let created = walhook.post("/v1/query", &json!({"type": "create_event_trigger", "args": args})).await;
    assert_eq!(created, (200, json!({"message": "success"})));
    database.execute("insert into public.items (name) values ('a'); update public.items set name = 'b'").await;
    receiver.wait_for(2, DEADLINE).await;
    assert!(!walhook.log().contains("WARN"), "nothing is wrong, but it says: {}", walhook.log());
    walhook.kill9().await;
    let mut walhook = start().ready().await;
    let invoke = json!({"type": "invoke_event_trigger", "args": {"name": "t", "payload": 1}});
    assert_eq!(walhook.post("/v1/query", &invoke).await.0, 200);
    let delete = json!({"type": "delete_event_trigger", "args": {"name": "t"}});
    receiver.wait_for(3, DEADLINE).await;
    assert_eq!(walhook.post("/v1/query", &delete).await.0, 200);
    assert!(walhook.terminate(DEADLINE).await.success(), "{}", walhook.log());
    drop((walhook, database));
    let admin = walhook::postgres::connect(&shared().await.settings("postgres"), "test").await.expect("a session");
    admin.batch_execute(&format!("drop role {name}")).await.expect("nothing is left that the role owns");
}

#[tokio::test]
async fn migrations_run_once_also_when_two_start_at_the_same_time() {
    let database = TestDatabase::create().await;
    database.execute(ITEMS).await;
    let (mut one, mut two) = (Start::serve(&database).spawn(), Start::serve(&database).spawn());
    tokio::join!(one.wait_until_ready(), two.wait_until_ready());
    let session = database.connect().await;
    let tables = "select count(*), (select count(*) from pg_class where relnamespace = 'walhook'::regnamespace)
                  from walhook.migration";
    let count = |row: &tokio_postgres::Row| (row.get::<_, i64>(0), row.get::<_, i64>(1));
    let before = count(&session.query_one(tables, &[]).await.expect("the migrations"));
    one.kill9().await;
    two.kill9().await;
    let mut again = Start::serve(&database).ready().await;
    assert_eq!(count(&session.query_one(tables, &[]).await.expect("the migrations")), before);
    assert!(again.terminate(DEADLINE).await.success());
}

/// A dump reads the tables for as long as it takes, and whoever waits for their locks holds up all that come behind.
#[tokio::test]
async fn a_migration_that_has_to_wait_holds_nobody_up() {
    let Scene { walhook, receiver, sql, database } = Scene::start(ITEMS).await;
    walhook.kill9().await;
    // As an older release left it.
    let undo = "alter table walhook.trigger_version drop column made_lsn, drop column system_identifier;
                delete from walhook.migration where version >= 24";
    sql.batch_execute(undo).await.expect("an older schema");
    let dump = database.connect().await;
    dump.batch_execute("begin; select from walhook.trigger_version").await.expect("a dump");
    let walhook = Start::serve(&database).spawn();
    let waits = || async { walhook.log().contains("waits for a lock").then_some(()).ok_or_else(|| walhook.log()) };
    eventually("a migration that waits", DEADLINE, waits).await;
    let scene = Scene { walhook, receiver, sql, database };
    let waits = "select count(*) from pg_stat_activity
                 where datname = current_database() and application_name = 'walhook setup'
                   and wait_event_type = 'Lock'";
    for _ in 0..2 {
        scene.wait_for_count(waits, 1).await;
        scene.execute("set lock_timeout = '20s'; lock table walhook.trigger_version in row exclusive mode").await;
    }
    dump.batch_execute("commit").await.expect("the end of the dump");
    let Scene { mut walhook, .. } = scene;
    walhook.wait_until_ready().await;
}

#[tokio::test]
async fn a_second_node_stands_by_and_takes_over_from_a_killed_one() {
    let Scene { walhook, receiver, sql, database } = Scene::start(ITEMS).await;
    let standby = Start::serve(&database).ready().await;
    assert_eq!(standby.get("/readyz").await.0, 200);
    let scene = Scene { walhook, receiver, sql, database };
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items (name) select 'before' from generate_series(1, 500)").await;
    scene.arrivals("/t", 100).await;
    let Scene { walhook, receiver, sql, database } = scene;
    walhook.kill9().await;
    let scene = Scene { walhook: standby, receiver, sql, database };
    scene.execute("insert into items (name) select 'after' from generate_series(1, 500)").await;
    scene.wait_for_count("select count(*) from walhook.event", 1000).await;
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 1000).await;
    support::load::check_delivered(&scene.sql, &scene.receiver, DEADLINE).await;
    // The API of the one that took over knows the catalogue.
    scene.create("u", "items", "/u", json!({})).await;
    scene.execute("insert into items (name) values ('u')").await;
    scene.arrivals("/u", 1).await;
}

#[tokio::test]
async fn a_stop_lets_requests_under_way_end_and_nothing_comes_twice() {
    let mut scene = Scene::start(ITEMS).await;
    scene.receiver.on("/t", Script::first(20, Answer::status(200).after(Duration::from_millis(1500))));
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items (name) select 'a' from generate_series(1, 20)").await;
    scene.arrivals("/t", 20).await;
    assert!(scene.walhook.terminate(DEADLINE).await.success(), "{}", scene.walhook.log());
    assert_eq!(scene.count("select count(*) from walhook.events where status = 'delivered'").await, 20);
    let scene = scene.crash_and_restart().await;
    scene.execute("insert into items (name) values ('marker')").await;
    let requests = scene.arrivals("/t", 21).await;
    assert_eq!(requests.len(), 21);
    assert_eq!(requests[20].json()["event"]["data"]["new"]["name"], "marker");
}

#[tokio::test]
async fn a_stop_gives_up_on_a_receiver_that_hangs_when_the_grace_is_over() {
    let mut scene = Scene::start_with(ITEMS, |start| start.with(&["--grace", "1s"])).await;
    scene.receiver.on("/t", Script::first(1, Answer::hang()));
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items (name) values ('a')").await;
    let first = scene.arrivals("/t", 1).await;
    assert!(scene.walhook.terminate(DEADLINE).await.success(), "{}", scene.walhook.log());
    let scene = scene.crash_and_restart().await;
    let requests = scene.arrivals("/t", 2).await;
    assert_eq!(requests[1].json(), first[0].json(), "the same event with the same count");
}

/// Nobody is let in behind it before it is accepted, and the kernel asks again after 1, 3 and 7 s.
fn full_door() -> (TcpListener, std::net::TcpStream) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a port");
    socket.listen(0).expect("it listens");
    socket.set_nonblocking(true).expect("for the runtime");
    let listener = TcpListener::from_std(socket.into()).expect("a listener");
    let first = std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("one is let in");
    (listener, first)
}

/// By then its lanes may be another node's, who sends it, and what comes after it.
#[tokio::test]
async fn what_still_connects_when_the_grace_is_over_is_not_sent() {
    let mut scene = Scene::start_with(ITEMS, |start| start.with(&["--grace", "1s"])).await;
    let (door, _first) = full_door();
    let url = format!("http://{}/", door.local_addr().expect("an address"));
    let args = trigger("t", "items", &url, json!({}));
    let made = scene.walhook.post("/v1/query", &json!({"type": "create_event_trigger", "args": args})).await;
    assert_eq!(made.0, 200, "{}", made.1);
    scene.execute("insert into items (name) values ('a')").await;
    // As Linux has it: who connects and is not let in yet is in state 2.
    let remote = format!(" 0100007F:{:04X} 02 ", door.local_addr().expect("an address").port());
    let connects = || async {
        let sockets = std::fs::read_to_string("/proc/net/tcp").expect("sockets");
        if sockets.contains(&remote) { Ok(()) } else { Err("nobody connects") }
    };
    eventually("it connects", DEADLINE, connects).await;
    // Who does not end what it asks keeps the process there.
    let mut caller = TcpStream::connect(("127.0.0.1", scene.walhook.port())).await.expect("the API");
    let head = b"POST /v1/query HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    caller.write_all(head).await.expect("a question");
    caller.read_exact(&mut [0; 12]).await.expect("it is waited for");
    scene.walhook.signal("TERM");
    scene.wait_for_count("select count(*) from walhook.lanes where node is not null", 0).await;
    assert!(scene.walhook.ended().is_none(), "{}", scene.walhook.log());
    let listening = async {
        door.accept().await.expect("the first one");
        let (mut stream, _) = door.accept().await.expect("walhook");
        let mut said = [0; 16];
        let length = stream.read(&mut said).await.unwrap_or(0);
        String::from_utf8_lossy(&said[..length]).into_owned()
    };
    let said = tokio::select! {
        said = listening => said,
        // On a slow machine it may end before it is let in.
        _ = scene.walhook.wait(DEADLINE) => String::new(),
    };
    assert_eq!(said, "");
    assert!(scene.walhook.wait(DEADLINE).await.success(), "{}", scene.walhook.log());
}

/// Its session lives on, and so does what it locked.
#[tokio::test]
async fn a_walhook_that_was_frozen_while_it_set_up_keeps_nobody_from_starting() {
    let database = TestDatabase::create().await;
    let frozen = database.connect().await;
    lock_setup(&frozen).await.expect("the lock");
    let mut walhook = Start::serve(&database).spawn();
    for text in ["waiting for the session of Postgres", "applied"] {
        let says_so = || async { if walhook.log().contains(text) { Ok(()) } else { Err(walhook.log()) } };
        eventually(text, DEADLINE, says_so).await;
    }
    walhook.wait_until_ready().await;
}

/// Stops walhook, breaks the slot, and sees that the loss is noticed, recorded, and can be accepted.
async fn check_gap(breaking: &str, reason: &str) {
    let mut scene = Scene::start(ITEMS).await;
    let slot = scene.database.slot();
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items (name) values ('seen')").await;
    scene.arrivals("/t", 1).await;
    assert!(scene.walhook.terminate(DEADLINE).await.success());
    scene.execute("insert into items (name) values ('lost')").await;
    scene.execute(&breaking.replace("$slot", &slot)).await;
    for _ in 0..2 {
        check_refusal(Start::serve(&scene.database), 3, &[reason, "walhook.gap", "--accept-gap"]).await;
    }
    assert_eq!(scene.count("select count(*) from walhook.gap where accepted_at is null").await, 1);
    let Scene { receiver, sql, database, .. } = scene;
    let walhook = Start::serve(&database).with(&["--accept-gap"]).ready().await;
    let scene = Scene { walhook, receiver, sql, database };
    scene.execute("insert into items (name) values ('later')").await;
    let changes = scene.changes("/t", 2).await;
    let names: Vec<&Value> = changes.iter().map(|change| &change[2]["name"]).collect();
    assert_eq!(names, ["seen", "later"]);
    assert_eq!(scene.count("select count(*) from walhook.gap where accepted_at is not null").await, 1);
    // Once accepted, the next start needs no flag.
    let scene = scene.crash_and_restart().await;
    scene.execute("insert into items (name) values ('last')").await;
    scene.arrivals("/t", 3).await;
}

#[tokio::test]
async fn a_missing_slot_is_a_gap_until_it_is_accepted() {
    check_gap("select pg_drop_replication_slot('$slot')", "is missing though walhook had one").await;
}

#[tokio::test]
async fn a_recreated_slot_is_a_gap_until_it_is_accepted() {
    let breaking = "select pg_drop_replication_slot('$slot');
                    select pg_create_logical_replication_slot('$slot', 'pgoutput')";
    check_gap(breaking, "was recreated or moved on without walhook").await;
}

#[tokio::test]
async fn a_slot_that_was_moved_on_is_a_gap_until_it_is_accepted() {
    let breaking = "select pg_replication_slot_advance('$slot', pg_current_wal_lsn())";
    check_gap(breaking, "was recreated or moved on without walhook").await;
}

#[tokio::test]
async fn a_slot_dropped_while_walhook_runs_is_a_gap() {
    let mut scene = Scene::start(ITEMS).await;
    scene.database.drop_slot_in_use().await;
    assert_eq!(scene.walhook.wait(DEADLINE).await.code(), Some(3), "{}", scene.walhook.log());
    assert!(scene.walhook.log().contains("--accept-gap"), "{}", scene.walhook.log());
}

#[tokio::test]
async fn slots_that_are_not_walhooks_are_refused() {
    for (make, reason) in [
        ("select pg_create_logical_replication_slot('$slot', 'test_decoding')", "uses plugin test_decoding"),
        ("select pg_create_physical_replication_slot('$slot')", "a physical slot"),
    ] {
        let database = TestDatabase::create().await;
        let slot = database.slot();
        database.execute(&make.replace("$slot", &slot)).await;
        check_refusal(Start::serve(&database), 3, &[reason, "--slot"]).await;
        database.execute(&format!("select pg_drop_replication_slot('{slot}')")).await;
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_said_and_nothing_is_made() {
    let database = TestDatabase::create().await;
    let receiver = Receiver::start().await;
    check_refusal(Start::serve(&database).on_port(receiver.port()), 3, &["--listen"]).await;
}

/// Such as one whose process was stopped while it made the slot: its session of Postgres goes on waiting.
#[tokio::test]
async fn a_walhook_that_waits_for_another_one_to_set_up_says_so_and_can_be_stopped() {
    let database = TestDatabase::create().await;
    let other = database.connect().await;
    other.batch_execute("select pg_advisory_lock(hashtext('walhook'), 1)").await.expect("the lock");
    let mut walhook = Start::serve(&database).spawn();
    let says_so = || async {
        let log = walhook.log();
        if log.contains("waiting for the session of Postgres with pid") { Ok(()) } else { Err(log) }
    };
    eventually("a word of the wait", DEADLINE, says_so).await;
    walhook.signal("TERM");
    assert!(walhook.wait(DEADLINE).await.success(), "{}", walhook.log());
    let mut walhook = Start::serve(&database).spawn();
    drop(other);
    walhook.wait_until_ready().await;
}
