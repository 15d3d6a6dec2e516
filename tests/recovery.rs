//! Nothing is lost and nothing is made up, whatever is killed or restarted: invariants 1, 2 and 3 of DESIGN.md.

mod support;

use std::time::Duration;

use serde_json::json;
use support::cluster::TestDatabase;
use support::load::{Dice, LEDGER, Writers, check_delivered, check_log, watch_acknowledged};
use support::scene::{DEADLINE, Scene};
use support::wait::{eventually, within};
use support::walhook::Start;
use walhook::postgres::cluster::{Cluster, Mode, Options};

const LONG: Duration = Duration::from_secs(180);
/// Events under way or not recorded yet: what one crash may send again, as the README promises.
const IN_FLIGHT: usize = 2048;

async fn ledger() -> Scene {
    let scene = Scene::start(LEDGER).await;
    scene.create("ledger", "ledger", "/ledger", json!({})).await;
    scene
}

/// The log matches the ledger, all of it arrives, and at most so many requests came again.
async fn check_everything(scene: &Scene, duplicates: usize) {
    check_log(&scene.sql, LONG).await;
    let repeated = check_delivered(&scene.sql, &scene.receiver, LONG).await;
    println!("{} requests, {repeated} of them again", scene.receiver.count());
    assert!(repeated <= duplicates, "{repeated} requests came again, at most {duplicates} were in flight");
    assert_eq!(scene.count("select count(*) from walhook.gap").await, 0);
}

/// Who takes over looks at every event after a cursor.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_move_while_there_is_always_something_to_record() {
    let scene = ledger().await;
    let slowly = "create function pause() returns trigger language plpgsql as $$
                      begin perform pg_sleep(0.2); return null; end $$;
                  create trigger slowly after insert on walhook.attempt execute function pause()";
    scene.execute(slowly).await;
    let writers = Writers::start(&scene.database, 2, &mut Dice::from_environment());
    scene.arrivals("/ledger", 200).await;
    let moved = || async {
        let cursor: i64 = scene.value("select coalesce(max(seq), 0) from walhook.cursor", &[]).await;
        if cursor > 100 { Ok(()) } else { Err(cursor) }
    };
    eventually("a cursor to move on", DEADLINE, moved).await;
    writers.finish().await;
    scene.execute("drop trigger slowly on walhook.attempt").await;
    check_everything(&scene, 0).await;
}

/// Processes of Postgres that belong to this database's walhook.
const BACKENDS: &str = "select pid from pg_stat_activity where application_name like 'walhook%' and datname = \
                        current_database()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_at_random_moments_under_load_lose_nothing_and_make_nothing_up() {
    let kills: usize = std::env::var("WALHOOK_TEST_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(12);
    let mut dice = Dice::from_environment();
    let Scene { mut walhook, receiver, sql, database } = ledger().await;
    let watching = watch_acknowledged(database.connect().await, database.slot());
    let writers = Writers::start(&database, 3, &mut dice);
    let port = walhook.port();
    for _ in 0..kills {
        // From before it listens to long after.
        tokio::time::sleep(Duration::from_millis(dice.below(2500))).await;
        walhook.kill9().await;
        walhook = Start::serve(&database).on_port(port).spawn();
    }
    walhook.wait_until_ready().await;
    writers.finish().await;
    let scene = Scene { walhook, receiver, sql, database };
    check_everything(&scene, kills * IN_FLIGHT).await;
    assert!(!watching.is_finished(), "{:?}", watching.await);
    watching.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_the_middle_of_a_big_transaction_leaves_no_part_of_it() {
    const ROWS: i64 = 50_000;
    let scene = ledger().await;
    scene
        .execute(&format!("insert into ledger (padding) select repeat('x', 200) from generate_series(1, {ROWS})"))
        .await;
    // Its first chunks are in an open transaction of the log's writer.
    let open = "select count(*) from pg_stat_activity where application_name = 'walhook capture' and backend_xid is \
                not null and datname = current_database() and query like '%copy walhook.event %'";
    scene.wait_for_count(open, 1).await;
    let scene = scene.crash_and_restart().await;
    scene.execute("insert into ledger (padding) values ('after')").await;
    check_everything(&scene, IN_FLIGHT).await;
    assert_eq!(scene.count("select count(*) from walhook.event").await, ROWS + 1);
    assert_eq!(scene.count("select count(distinct commit_lsn) from walhook.event").await, 2);
}

async fn check_postgres_restart(mode: Mode) {
    let mut dice = Dice::from_environment();
    let mut cluster = Cluster::start(Options::default()).await.expect("a cluster");
    let database = TestDatabase::create_in(&cluster).await;
    let scene = Scene::in_database(database, LEDGER, |start| start).await;
    scene.create("ledger", "ledger", "/ledger", json!({})).await;
    let writers = Writers::start(&scene.database, 3, &mut dice);
    for round in 1..=2 {
        scene.arrivals("/ledger", scene.receiver.count() + 200).await;
        if let Err(error) = cluster.restart(mode).await {
            panic!("restart {round}: {error}; walhook's log:\n{}", scene.walhook.log());
        }
    }
    // It goes on by itself: what is written after the restart arrives.
    scene.arrivals("/ledger", scene.receiver.count() + 200).await;
    writers.finish().await;
    let Scene { walhook, receiver, database, .. } = scene;
    let sql = database.connect().await;
    let mut scene = Scene { walhook, receiver, sql, database };
    // Outcomes that could not be recorded are kept, so the same process sends nothing twice unless it lost the lanes.
    check_everything(&scene, 2 * IN_FLIGHT).await;
    assert!(scene.walhook.terminate(DEADLINE).await.success(), "{}", scene.walhook.log());
    drop(scene);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_restart_of_postgres_is_waited_out() {
    check_postgres_restart(Mode::Fast).await;
}

/// Postgres waits at its end for readers of WAL to have everything. We could not take it any more, so we must let go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_stop_with_events_not_yet_acknowledged_is_not_held_up_and_loses_nothing() {
    let mut dice = Dice::from_environment();
    let mut cluster = Cluster::start(Options::default()).await.expect("a cluster");
    let database = TestDatabase::create_in(&cluster).await;
    let scene = Scene::in_database(database, LEDGER, |start| start).await;
    scene.create("ledger", "ledger", "/ledger", json!({})).await;
    let writers = Writers::start(&scene.database, 3, &mut dice);
    for _ in 0..3 {
        scene.arrivals("/ledger", scene.receiver.count() + 50).await;
        // From here on nothing can be queued, so nothing that is sent is acknowledged.
        let stall = scene.database.connect().await;
        stall.batch_execute("begin; lock table walhook.event in share mode").await.expect("a lock");
        let waiting = "select count(*) from pg_stat_activity where application_name = 'walhook capture' and \
                       wait_event_type = 'Lock' and datname = current_database()";
        let behind = "select count(*) from pg_stat_replication where sent_lsn > flush_lsn + 20000";
        let watch = scene.database.connect().await;
        for (what, query) in [("a stalled append", waiting), ("WAL not acknowledged", behind)] {
            let check = || async {
                let count: i64 = watch.query_one(query, &[]).await.expect("a count").get(0);
                if count > 0 { Ok(()) } else { Err(count) }
            };
            eventually(what, DEADLINE, check).await;
        }
        let stopping = cluster.stop(Mode::Fast);
        within("the stop of Postgres", Duration::from_secs(5), stopping).await.expect("it stopped");
        drop((stall, watch));
        cluster.resume().await.expect("it starts again");
    }
    writers.finish().await;
    let Scene { walhook, receiver, database, .. } = scene;
    let sql = database.connect().await;
    let scene = Scene { walhook, receiver, sql, database };
    check_everything(&scene, 3 * IN_FLIGHT).await;
    drop(scene);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_postgres_is_waited_out() {
    check_postgres_restart(Mode::Immediate).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminated_backends_are_replaced() {
    let mut dice = Dice::from_environment();
    let scene = ledger().await;
    let watching = watch_acknowledged(scene.database.connect().await, scene.database.slot());
    let writers = Writers::start(&scene.database, 2, &mut dice);
    let slot = scene.database.slot();
    let sender = format!("select active_pid from pg_replication_slots where slot_name = '{slot}' and active");
    for which in [sender.as_str(), BACKENDS, sender.as_str(), BACKENDS] {
        scene.arrivals("/ledger", scene.receiver.count() + 100).await;
        let ended = || async {
            let ended = scene.count(&format!("select count(pg_terminate_backend(pid)) from ({which}) s (pid)")).await;
            if ended > 0 { Ok(()) } else { Err("no such backend") }
        };
        eventually("a backend to end", DEADLINE, ended).await;
    }
    scene.arrivals("/ledger", scene.receiver.count() + 100).await;
    writers.finish().await;
    check_everything(&scene, 4 * IN_FLIGHT).await;
    assert!(!watching.is_finished(), "{:?}", watching.await);
    watching.abort();
}

/// Capture has passed a trigger's definition and the server knows it, though there was no event yet.
async fn wait_until_passed(scene: &Scene, trigger: &str) {
    let passed = format!(
        "select count(*) from walhook.activation a join walhook.trigger t on t.id = a.trigger_id, pg_replication_slots s
         where t.name = '{trigger}' and s.slot_name = '{}' and s.confirmed_flush_lsn > a.commit_lsn",
        scene.database.slot()
    );
    scene.wait_for_count(&passed, 1).await;
}

#[tokio::test]
async fn a_kill_between_a_triggers_creation_and_its_first_event_is_no_gap() {
    let scene = Scene::start(LEDGER).await;
    scene.create("one", "ledger", "/one", json!({})).await;
    wait_until_passed(&scene, "one").await;
    let scene = scene.crash_and_restart().await;
    scene.execute("insert into ledger default values").await;
    scene.arrivals("/one", 1).await;
    assert_eq!(scene.count("select count(*) from walhook.gap").await, 0);
}

#[tokio::test]
async fn a_stop_between_a_triggers_creation_and_its_first_event_is_no_gap() {
    let mut scene = Scene::start(LEDGER).await;
    scene.create("one", "ledger", "/one", json!({})).await;
    wait_until_passed(&scene, "one").await;
    assert!(scene.walhook.terminate(DEADLINE).await.success());
    let scene = scene.crash_and_restart().await;
    scene.execute("insert into ledger default values").await;
    scene.arrivals("/one", 1).await;
}

#[tokio::test]
async fn sessions_commit_durably_and_see_what_others_committed_where_the_database_says_otherwise() {
    let database = TestDatabase::create().await;
    for (name, value, expected) in
        [("synchronous_commit", "off", "on"), ("default_transaction_isolation", "serializable", "read committed")]
    {
        database.execute(&format!("alter database {} set {name} = '{value}'", database.name())).await;
        let session = walhook::postgres::connect(&database.settings(), "walhook capture").await.expect("a session");
        let pool = walhook::postgres::pool(&database.settings(), "walhook", 1);
        let pooled = pool.get().await.expect("a session of the pool");
        for client in [&*session, &**pooled] {
            let row = client.query_one(&format!("show {name}"), &[]).await.expect("a setting");
            assert_eq!(row.get::<_, &str>(0), expected);
        }
    }
}

/// As `docker pause` does to a process that just then holds locks.
#[tokio::test]
async fn a_session_that_is_left_in_a_transaction_is_ended_by_the_server() {
    let database = TestDatabase::create().await;
    let session = walhook::postgres::connect(&database.settings(), "walhook retention").await.expect("a session");
    let row = session.query_one("show idle_in_transaction_session_timeout", &[]).await.expect("a setting");
    assert_eq!(row.get::<_, &str>(0), "2min");
    session.batch_execute("set idle_in_transaction_session_timeout = '100ms'; begin").await.expect("a transaction");
    let ended = || async { if session.is_closed() { Ok(()) } else { Err(()) } };
    eventually("the end of the session", DEADLINE, ended).await;
}
