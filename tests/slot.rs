//! The slot's health: it moves on, outlives stalls, is waited for, and whatever may have lost WAL is a recorded gap.

mod support;

use std::time::Duration;

use serde_json::json;
use support::cluster::TestDatabase;
use support::metrics::Page;
use support::scene::{DEADLINE, Scene};
use support::wait::eventually;
use support::walhook::Start;
use walhook::model::Lsn;
use walhook::postgres::cluster::{Cluster, Mode, Options};
use walhook::postgres::replication::{Connection, Start as StreamStart};

const ITEMS: &str = "create table public.items (id bigint generated always as identity primary key, name text)";

async fn cluster(settings: &[(&str, &str)]) -> Cluster {
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Cluster::start(Options { settings, ..Options::default() }).await.expect("a cluster")
}

/// A scene in a cluster of its own with a trigger, whose first event has arrived.
async fn scene(cluster: &Cluster, settings: &[&str]) -> Scene {
    let database = TestDatabase::create_in(cluster).await;
    let scene = Scene::in_database(database, ITEMS, |start| start.with(settings)).await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items (name) values ('seen')").await;
    scene.arrivals("/t", 1).await;
    scene
}

async fn wait_for(scene: &Scene, what: &str, query: &str) {
    let check = || async { if scene.value::<bool>(query, &[]).await { Ok(()) } else { Err(scene.walhook.log()) } };
    eventually(what, DEADLINE, check).await;
}

/// walhook does not start, says why and what to do, and the gap is recorded, once; once it is accepted it goes on.
async fn check_gap(scene: Scene, reason: &str) {
    let Scene { mut walhook, receiver, sql, database } = scene;
    walhook.terminate(DEADLINE).await;
    let start = || Start::serve(&database);
    for _ in 0..2 {
        let mut refused = start().spawn();
        assert_eq!(refused.wait(DEADLINE).await.code(), Some(3), "{}", refused.log());
        for sentence in [reason, "walhook.gap", "--accept-gap"] {
            assert!(refused.log().contains(sentence), "{sentence:?} is not in:\n{}", refused.log());
        }
    }
    let gap = "select count(*) from walhook.gap where accepted_at is null and position($1 in reason) > 0";
    let open: i64 = sql.query_one(gap, &[&reason]).await.expect("the gaps").get(0);
    assert_eq!(open, 1);
    let shown = "select position($1 in open_gap) > 0 from walhook.source_status";
    assert!(sql.query_one(shown, &[&reason]).await.expect("the status").get::<_, bool>(0));
    let walhook = start().with(&["--accept-gap"]).ready().await;
    let scene = Scene { walhook, receiver, sql, database };
    scene.execute("insert into items (name) values ('later')").await;
    scene.arrivals("/t", 2).await;
    let accepted = "select count(*) from walhook.gap where accepted_at is not null and to_lsn is not null";
    assert_eq!(scene.count(accepted).await, scene.count("select count(*) from walhook.gap").await);
    // Once accepted, it stays accepted.
    let Scene { walhook, receiver, sql, database } = scene;
    walhook.kill9().await;
    let walhook = Start::serve(&database).ready().await;
    let scene = Scene { walhook, receiver, sql, database };
    scene.execute("insert into items (name) values ('last')").await;
    scene.arrivals("/t", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wal_that_the_server_threw_away_is_a_gap() {
    let cluster =
        cluster(&[("max_slot_wal_keep_size", "16MB"), ("min_wal_size", "32MB"), ("wal_keep_size", "0")]).await;
    let mut scene = scene(&cluster, &[]).await;
    assert!(scene.walhook.terminate(DEADLINE).await.success());
    for _ in 0..4 {
        scene.execute("insert into items (name) values ('lost')").await;
        scene.execute("select pg_switch_wal()").await;
    }
    scene.execute("checkpoint").await;
    wait_for(&scene, "the slot to be lost", "select wal_status = 'lost' from pg_replication_slots").await;
    check_gap(scene, "lost the WAL it needs").await;
}

/// A checkpoint ends the reader of a slot that keeps too much, and the slot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_is_invalidated_under_a_stalled_stream_is_a_gap() {
    let cluster =
        cluster(&[("max_slot_wal_keep_size", "16MB"), ("min_wal_size", "32MB"), ("wal_keep_size", "0")]).await;
    let scene = scene(&cluster, &[]).await;
    let stall = scene.database.connect().await;
    stall.batch_execute("begin; lock table walhook.event in share mode").await.expect("a lock");
    scene.execute("insert into items (name) select repeat('x', 1900) from generate_series(1, 30000)").await;
    let invalidated = || async {
        scene.execute("select pg_switch_wal(); checkpoint").await;
        let lost = "select wal_status = 'lost' from pg_replication_slots";
        if scene.value::<bool>(lost, &[]).await { Ok(()) } else { Err(scene.walhook.log()) }
    };
    eventually("the slot to be invalidated", DEADLINE, invalidated).await;
    let Scene { mut walhook, receiver, sql, database } = scene;
    assert_eq!(walhook.wait(DEADLINE).await.code(), Some(3), "{}", walhook.log());
    assert!(walhook.log().contains("max_slot_wal_keep_size was too small"), "{}", walhook.log());
    stall.batch_execute("rollback").await.expect("an end");
    check_gap(Scene { walhook, receiver, sql, database }, "lost the WAL it needs").await;
}

/// Postgres 18 can invalidate slots that nobody reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_was_left_alone_for_too_long_is_a_gap() {
    let cluster = cluster(&[]).await;
    if cluster.major_version() < 18 {
        return;
    }
    let mut scene = scene(&cluster, &[]).await;
    assert!(scene.walhook.terminate(DEADLINE).await.success());
    scene.execute("alter system set idle_replication_slot_timeout = '1s'").await;
    scene.execute("select pg_reload_conf()").await;
    let invalidated = || async {
        scene.execute("checkpoint").await;
        let lost = "select coalesce(invalidation_reason = 'idle_timeout', false) from pg_replication_slots";
        if scene.value::<bool>(lost, &[]).await { Ok(()) } else { Err("not yet".to_owned()) }
    };
    eventually("the slot to be invalidated", DEADLINE, invalidated).await;
    check_gap(scene, "idle_replication_slot_timeout").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_system_another_timeline_and_another_slot_are_gaps() {
    let cluster = cluster(&[]).await;
    let changed = "update walhook.source set system_identifier = '1'";
    let other = scene(&cluster, &[]).await;
    other.execute(changed).await;
    check_gap(other, "this is another database cluster").await;
    let later = scene(&cluster, &[]).await;
    later.execute("update walhook.slot_status set timeline = 7").await;
    check_gap(later, "writes timeline 1 and timeline 7 was captured so far").await;
    let renamed = scene(&cluster, &[]).await;
    renamed.execute("update walhook.source set slot = 'another'").await;
    check_gap(renamed, "is not the one that was read so far, which is --slot another").await;
}

/// A server that is made a standby of nobody and promoted writes another timeline, as a promoted standby does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_is_a_gap() {
    let mut cluster = cluster(&[]).await;
    let scene = scene(&cluster, &[]).await;
    cluster.stop(Mode::Fast).await.expect("it stops");
    std::fs::write(cluster.data_directory().join("standby.signal"), "").expect("a signal");
    cluster.resume().await.expect("it starts as a standby");
    let Scene { mut walhook, receiver, database, .. } = scene;
    let sql = database.connect().await;
    sql.execute("select pg_promote()", &[]).await.expect("a promotion");
    // It may have met the standby first, which it refuses as well; then it is another start that finds the gap.
    assert_eq!(walhook.wait(DEADLINE).await.code(), Some(3), "{}", walhook.log());
    sql.batch_execute("set search_path = public").await.expect("a path");
    check_gap(Scene { walhook, receiver, sql, database }, "writes timeline 2 and timeline 1").await;
}

/// Nobody else sees it: the node that had the source stands still.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_was_made_anew_while_a_node_stood_by_is_a_gap_when_its_turn_comes() {
    let cluster = cluster(&[]).await;
    let patient = ["--node-timeout", "10m"];
    let mut scene = scene(&cluster, &patient).await;
    let mut other = Start::serve(&scene.database).with(&patient).ready().await;
    let stands_by = || async { other.log().contains("standing by").then_some(()).ok_or_else(|| other.log()) };
    eventually("a node that stands by", DEADLINE, stands_by).await;
    scene.walhook.signal("STOP");
    scene.database.drop_slot_in_use().await;
    let slot = scene.database.slot();
    scene.execute("insert into items (name) values ('lost')").await;
    scene.execute(&format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    let owner = "select pg_terminate_backend(a.pid) from pg_stat_activity a join pg_locks l on l.pid = a.pid
                 where a.application_name = 'walhook capture' and l.locktype = 'advisory' and l.granted";
    scene.execute(owner).await;
    assert_eq!(other.wait(DEADLINE).await.code(), Some(3), "{}", other.log());
    assert!(other.log().contains("was recreated or moved on without walhook"), "{}", other.log());
    assert_eq!(scene.count("select count(*) from walhook.gap where accepted_at is null").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_outlives_a_stalled_queue_that_outlasts_the_servers_timeout() {
    let cluster = cluster(&[("wal_sender_timeout", "2s")]).await;
    let scene = scene(&cluster, &[]).await;
    let sender = "select active_pid from pg_replication_slots where active_pid is not null";
    let before: i32 = scene.value(sender, &[]).await;
    let stall = scene.database.connect().await;
    stall.batch_execute("begin; lock table walhook.event in share mode").await.expect("a lock");
    // More than the buffers hold.
    scene.execute("insert into items (name) select repeat('x', 1000) from generate_series(1, 30000)").await;
    let held = "select coalesce(bool_or(wait_event_type = 'Lock' and now() - state_change > '10 s'), false)
                from pg_stat_activity where application_name = 'walhook capture'";
    wait_for(&scene, "ten seconds of a stalled append", held).await;
    assert_eq!(scene.value::<i32>(sender, &[]).await, before, "{}", scene.walhook.log());
    stall.batch_execute("rollback").await.expect("an end");
    scene.wait_for_count("select count(*) from walhook.event", 30_001).await;
    assert_eq!(scene.value::<i32>(sender, &[]).await, before, "{}", scene.walhook.log());
    assert!(!scene.walhook.log().contains("capture interrupted"), "{}", scene.walhook.log());
}

/// A role or a database often has some for the application.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_that_are_set_in_the_database_are_not_for_walhook() {
    let timeouts = "pg_settings where name in ('statement_timeout', 'idle_session_timeout', 'transaction_timeout')";
    let ddl = format!(
        "{ITEMS}; do $$ declare one text; begin
             for one in select name from {timeouts} loop
                 execute format('alter database %I set %I = 1000', current_database(), one);
             end loop; end $$"
    );
    let cluster = cluster(&[]).await;
    let scene = Scene::in_database(TestDatabase::create_in(&cluster).await, &ddl, |start| start).await;
    scene.create("t", "items", "/t", json!({})).await;
    let stall = scene.database.connect().await;
    let unbounded = format!("select set_config(name, '0', false) from {timeouts}");
    stall.batch_execute(&unbounded).await.expect("no timeouts for the test");
    stall.batch_execute("begin; lock table walhook.event in share mode").await.expect("a lock");
    // More than the buffers hold.
    scene.execute("insert into items (name) select repeat('x', 1000) from generate_series(1, 30000)").await;
    let held = "select coalesce(bool_or(wait_event_type = 'Lock' and now() - state_change > '3 s'), false)
                from pg_stat_activity where application_name = 'walhook capture'";
    wait_for(&scene, "three seconds of a stalled append", held).await;
    stall.batch_execute("rollback").await.expect("an end");
    scene.wait_for_count("select count(*) from walhook.event", 30_000).await;
    let log = scene.walhook.log();
    assert!(!log.contains("interrupted") && !log.contains("timeout"), "{log}");
}

/// Whether the slot passed what another database of the cluster wrote.
async fn check_idle(settings: &[&str]) {
    let cluster = cluster(&[]).await;
    let busy = TestDatabase::create_in(&cluster).await;
    let scene = scene(&cluster, settings).await;
    busy.execute("create table public.noise as select repeat('x', 100) from pg_catalog.generate_series(1, 50000)")
        .await;
    let end: String = scene.value("select pg_current_wal_lsn()::text", &[]).await;
    let passed = format!("select confirmed_flush_lsn >= '{end}' from pg_replication_slots");
    wait_for(&scene, "the idle slot to move on", &passed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slot_of_an_idle_database_moves_on_with_the_servers_own_positions() {
    check_idle(&["--heartbeat", "off"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_are_committed_transactions_and_can_be_turned_off() {
    check_idle(&["--heartbeat", "1s"]).await;
    let cluster = cluster(&[]).await;
    for (setting, beats) in [("100ms", true), ("off", false)] {
        let scene = scene(&cluster, &["--heartbeat", setting]).await;
        let peek = "select count(*) from pg_logical_slot_peek_changes('watcher', null, null) \
                    where data like 'message: transactional: 1 prefix: walhook heartbeat%'";
        scene.execute("select pg_create_logical_replication_slot('watcher', 'test_decoding')").await;
        // The second event has come through the WAL a while after the slot was made.
        scene.execute("select pg_sleep(1); insert into items (name) values ('marker')").await;
        scene.arrivals("/t", 2).await;
        if beats {
            wait_for(&scene, "a heartbeat", &peek.replace("count(*)", "count(*) > 0")).await;
        }
        assert_eq!(scene.count(peek).await > 0, beats, "--heartbeat {setting}");
        assert_eq!(scene.count("select count(*) from walhook.event").await, 2, "a heartbeat is no event");
        scene.execute("select pg_drop_replication_slot('watcher')").await;
    }
}

/// A role that may not write messages captures all the same, and its log says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_to_heartbeats_capture_goes_on_with_a_warning() {
    let cluster = cluster(&[]).await;
    let database = TestDatabase::create_in(&cluster).await;
    let name = database.name();
    let limited = format!(
        "create role limited login password 'secret' replication; grant create on database {name} to limited;
         alter database {name} owner to limited; grant all on schema public to limited;
         do $$ begin execute (
             select string_agg(format('revoke execute on function %s from public', oid::regprocedure), ';')
             from pg_proc where proname = 'pg_logical_emit_message'
         ); end $$"
    );
    database.execute(&limited).await;
    let settings = database.settings();
    let url = format!("postgresql://limited:secret@127.0.0.1:{}/{name}", settings.port());
    let own = format!("set role limited; {ITEMS}; reset role");
    let scene = Scene::in_database(database, &own, |_| Start::default().with(&["serve", "--database-url", &url])).await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items (name) values ('seen')").await;
    scene.arrivals("/t", 1).await;
    let check = || async {
        let log = scene.walhook.log();
        if log.contains("no heartbeats") && log.contains("pg_logical_emit_message") { Ok(()) } else { Err(log) }
    };
    eventually("the warning", DEADLINE, check).await;
    let looked = "select coalesce(retained_bytes >= 0, false) from walhook.source_status";
    wait_for(&scene, "the first look", looked).await;
    assert!(!scene.walhook.log().contains("capture interrupted"), "{}", scene.walhook.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_somebody_still_reads_is_waited_for() {
    let Scene { mut walhook, receiver, sql, database } = Scene::start(ITEMS).await;
    assert!(walhook.terminate(DEADLINE).await.success());
    let (slot, publication) = (database.slot(), database.publication());
    let connection = Connection::connect(&database.settings(), "lingering").await.expect("a connection");
    let start = StreamStart { slot: &slot, publication: &publication, from: Lsn(0), sender_timeout: Duration::ZERO };
    let lingering = connection.start(start).await.expect("a stream");
    let mut walhook = Start::serve(&database).spawn();
    let check = || async {
        let log = walhook.log();
        if log.contains("is active for PID") { Ok(()) } else { Err(log) }
    };
    eventually("the wait to be told", DEADLINE, check).await;
    assert_eq!(walhook.get("/readyz").await.0, 503);
    drop(lingering);
    walhook.wait_until_ready().await;
    assert!(!walhook.log().contains("capture interrupted"), "{}", walhook.log());
    drop((receiver, sql));
}

/// It starts silently where the slot is by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_is_moved_while_it_is_waited_for_is_a_gap() {
    let scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items (name) values ('a')").await;
    scene.arrivals("/t", 1).await;
    let Scene { mut walhook, receiver, sql, database } = scene;
    assert!(walhook.terminate(DEADLINE).await.success());
    let (slot, publication) = (database.slot(), database.publication());
    let connection = Connection::connect(&database.settings(), "lingering").await.expect("a connection");
    let start = StreamStart { slot: &slot, publication: &publication, from: Lsn(0), sender_timeout: Duration::ZERO };
    let mut lingering = connection.start(start).await.expect("a stream");
    let mut walhook = Start::serve(&database).spawn();
    let check = || async {
        let log = walhook.log();
        if log.contains("is active for PID") { Ok(()) } else { Err(log) }
    };
    eventually("the wait to be told", DEADLINE, check).await;
    sql.batch_execute("insert into items (name) values ('lost')").await.expect("a row");
    let end: String = sql.query_one("select pg_current_wal_lsn()::text", &[]).await.expect("a place").get(0);
    let moved = async {
        let passed =
            format!("select confirmed_flush_lsn >= '{end}' from pg_replication_slots where slot_name = '{slot}'");
        while !sql.query_one(&passed, &[]).await.expect("the slot").get::<_, bool>(0) {
            lingering.next().await.expect("what comes");
            // All that was received.
            lingering.acknowledge(Lsn(u64::MAX));
        }
    };
    tokio::time::timeout(DEADLINE, moved).await.expect("it is moved");
    drop(lingering);
    assert_eq!(walhook.wait(DEADLINE).await.code(), Some(3), "{}", walhook.log());
    let gaps = "select count(*) from walhook.gap where accepted_at is null and to_lsn > from_lsn";
    assert_eq!(sql.query_one(gaps, &[]).await.expect("a gap").get::<_, i64>(0), 1);
    drop(receiver);
}

/// From Postgres 18 on the stream goes on, with nothing in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_that_was_dropped_is_a_gap() {
    check_unpublished(false).await;
    // Postgres 18 says nothing of that, and streams nothing in between.
    if support::cluster::version().await < 18 {
        check_unpublished(true).await;
    }
}

async fn check_unpublished(made_again: bool) {
    let scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items (name) values ('a')").await;
    scene.arrivals("/t", 1).await;
    let Scene { mut walhook, receiver, sql, database } = scene;
    let publication = database.publication();
    let (drop_it, make_it) = (format!("drop publication {publication}"), format!("create publication {publication}"));
    sql.batch_execute(&drop_it).await.expect("it is dropped");
    if made_again {
        sql.batch_execute("insert into items (name) values ('lost')").await.expect("a row");
        sql.batch_execute(&make_it).await.expect("it is made again");
    }
    assert_eq!(walhook.wait(DEADLINE).await.code(), Some(3), "{}", walhook.log());
    for sentence in ["there was no publication", "walhook.gap", "--accept-gap"] {
        assert!(walhook.log().contains(sentence), "{sentence:?} is not in:\n{}", walhook.log());
    }
    // Also once it was made again.
    let mut refused = Start::serve(&database).spawn();
    assert_eq!(refused.wait(DEADLINE).await.code(), Some(3), "{}", refused.log());
    sql.batch_execute("insert into items (name) values ('lost')").await.expect("a row");
    let walhook = Start::serve(&database).with(&["--accept-gap"]).ready().await;
    let scene = Scene { walhook, receiver, sql, database };
    scene.create("t", "items", "/t", json!({"replace": true})).await;
    scene.execute("insert into items (name) values ('later')").await;
    let requests = scene.arrivals("/t", 2).await;
    assert_eq!(requests[1].json()["event"]["data"]["new"]["name"], "later");
    assert_eq!(scene.count("select count(*) from walhook.gap where accepted_at is not null").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_keeps_too_much_wal_is_warned_of_until_the_cure() {
    let cluster = cluster(&[("max_slot_wal_keep_size", "64MB"), ("checkpoint_timeout", "1h")]).await;
    let scene = scene(&cluster, &[]).await;
    wait_for(
        &scene,
        "the first look",
        "select coalesce(warning is null and retained_bytes >= 0, false) from walhook.source_status",
    )
    .await;
    const LIMIT: f64 = 64.0 * 1024.0 * 1024.0;
    // Whether it is at risk, the limit, what is kept, and the lag; absent for a moment when capture connects again.
    let shows = async |what: &str, expected: fn([f64; 4]) -> bool| {
        let names = ["at_risk", "retained_limit_bytes", "retained_bytes", "lag_bytes"];
        let source = [("source", "default")];
        Page::wait_for(&scene.walhook, "", what, |page| {
            let found = names.map(|name| page.find(&format!("walhook_slot_{name}"), &source));
            found.iter().all(Option::is_some) && expected(found.map(Option::unwrap_or_default))
        })
        .await;
    };
    shows("a slot at no risk", |[risk, limit, kept, _]| risk == 0.0 && limit == LIMIT && kept < LIMIT * 0.8).await;
    let stall = scene.database.connect().await;
    stall.batch_execute("begin; lock table walhook.event in share mode").await.expect("a lock");
    // Below what is compressed.
    scene.execute("insert into items (name) select repeat('x', 1900) from generate_series(1, 29000)").await;
    wait_for(
        &scene,
        "a warning",
        "select coalesce(warning like '%ALTER SYSTEM SET%256MB%', false) from walhook.source_status",
    )
    .await;
    assert!(scene.walhook.log().contains("max_slot_wal_keep_size is 64 MiB"), "{}", scene.walhook.log());
    shows("a slot at risk", |[risk, limit, kept, lag]| {
        risk == 1.0 && limit == LIMIT && kept >= LIMIT * 0.8 && lag > LIMIT / 2.0
    })
    .await;
    // The cure that it names.
    scene.execute("alter system set max_slot_wal_keep_size = '256MB'").await;
    scene.execute("select pg_reload_conf()").await;
    wait_for(&scene, "the end of the warning", "select warning is null from walhook.source_status").await;
    assert!(scene.walhook.log().contains("keeps little WAL again"), "{}", scene.walhook.log());
    shows("the cure", |[risk, limit, ..]| risk == 0.0 && limit == LIMIT * 4.0).await;
    stall.batch_execute("rollback").await.expect("an end");
    scene.wait_for_count("select count(*) from walhook.event", 29_001).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_follows_to_standbys_where_the_server_can_do_that() {
    let cluster = cluster(&[]).await;
    let database = TestDatabase::create_in(&cluster).await;
    let start = Start::serve(&database).with(&["--slot-failover"]);
    if cluster.major_version() < 17 {
        let mut refused = start.spawn();
        assert_eq!(refused.wait(DEADLINE).await.code(), Some(3), "{}", refused.log());
        assert!(refused.log().contains("--slot-failover"), "{}", refused.log());
        return;
    }
    let failover = "select failover from pg_replication_slots where slot_name = $1";
    let sql = database.connect().await;
    // Also a slot that was made without.
    Start::serve(&database).ready().await.kill9().await;
    assert!(!sql.query_one(failover, &[&database.slot()]).await.expect("a slot").get::<_, bool>(0));
    let walhook = start.ready().await;
    assert!(sql.query_one(failover, &[&database.slot()]).await.expect("a slot").get::<_, bool>(0));
    drop((walhook, sql, database));
}
