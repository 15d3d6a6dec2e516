//! What came of a request is recorded, whatever becomes meanwhile of the session that owns its lane, as long as nobody
//! else had the lane.

mod support;

use std::time::Duration;

use serde_json::json;
use support::cluster::TestDatabase;
use support::metrics::Page;
use support::receiver::{Answer, Script};
use support::scene::{DEADLINE, Scene};
use walhook::postgres::cluster::{Cluster, Mode, Options};

const ITEMS: &str = "create table public.items (id bigint generated always as identity primary key, name text)";
const DELIVERED: &str = "select count(*) from walhook.attempts where verdict = 'delivered'";

/// The sessions that own lanes, or are to.
const OWNERS: &str = "select count(*) from pg_stat_activity
                      where application_name = 'walhook delivery' and datname = current_database()";
const END_OWNER: &str = "select pg_terminate_backend(pid) from pg_stat_activity
                         where application_name = 'walhook delivery' and datname = current_database()";

/// Long enough that nothing is recorded before the session is gone.
const SLOW: Duration = Duration::from_secs(3);

/// The receiver has it and does not answer yet.
async fn send_an_event(scene: &Scene) {
    send_an_event_that_takes(scene, SLOW).await;
}

async fn send_an_event_that_takes(scene: &Scene, time: Duration) {
    scene.create("t", "items", "/t", json!({})).await;
    scene.receiver.on("/t", Script::always(Answer::status(204).after(time)));
    scene.execute("insert into items (name) values ('a')").await;
    scene.arrivals("/t", 1).await;
}

/// What came of it is to be recorded, and is not yet.
async fn wait_for_the_end_of_the_request(scene: &Scene) {
    let labels = [("source", "default"), ("trigger", "t"), ("outcome", "2xx")];
    let has_ended = |page: &Page| page.find("walhook_delivery_attempts_total", &labels) == Some(1.0);
    Page::wait_for(&scene.walhook, "", "the end of the request", has_ended).await;
    assert_eq!(scene.count(DELIVERED).await, 0);
}

async fn check_sent_once(scene: &Scene) {
    scene.wait_for_count(DELIVERED, 1).await;
    assert_eq!(scene.receiver.count(), 1, "{}", scene.walhook.log());
}

/// It is connected again while others still hold the lanes; nobody delivered anything in them meanwhile.
#[tokio::test]
async fn an_outcome_waits_for_lanes_that_come_back_later_than_the_session() {
    let scene = Scene::start(ITEMS).await;
    send_an_event(&scene).await;
    let take = "select pg_advisory_lock(hashtext('walhook lane'), lane) from generate_series(0, 15) lane";
    scene.execute(&format!("{END_OWNER}; {take}")).await;
    scene.wait_for_count(OWNERS, 1).await;
    wait_for_the_end_of_the_request(&scene).await;
    // Its lane first: it is found although the node may just be looking at the ones behind it.
    let free = "select pg_advisory_unlock(hashtext('walhook lane'), lane) from walhook.event";
    scene.execute(&format!("{free}; select pg_advisory_unlock_all()")).await;
    check_sent_once(&scene).await;
}

/// Its session ends while it notes whose the lanes are, which may have been done for all that it knows.
#[tokio::test]
async fn an_outcome_outlives_a_session_that_ends_while_it_takes_the_lanes() {
    let scene = Scene::start(ITEMS).await;
    send_an_event(&scene).await;
    let holder = scene.database.connect().await;
    holder.batch_execute(&format!("begin; select from walhook.lane for update; {END_OWNER}")).await.expect("a lock");
    let takes = format!("{OWNERS} and wait_event_type = 'Lock'");
    scene.wait_for_count(&takes, 1).await;
    wait_for_the_end_of_the_request(&scene).await;
    scene.execute(END_OWNER).await;
    holder.batch_execute("rollback").await.expect("an end");
    check_sent_once(&scene).await;
}

/// As after a crash of Postgres, which empties the table of nodes: this one is registered again, and does not know of
/// that yet.
#[tokio::test]
async fn an_outcome_outlives_a_registration_that_is_lost_with_the_session() {
    let scene = Scene::start(ITEMS).await;
    send_an_event(&scene).await;
    let slowly = "create function pause() returns trigger language plpgsql as $$
                      begin perform pg_sleep(2); return new; end $$;
                  create trigger slowly before update on walhook.node for each row execute function pause()";
    scene.execute(&format!("begin; delete from walhook.node; {slowly}; commit")).await;
    let is_told = "select count(*) from walhook.node, pg_stat_activity
                   where wait_event = 'PgSleep' and datname = current_database()";
    scene.wait_for_count(is_told, 1).await;
    assert_eq!(scene.count(DELIVERED).await, 0, "the request is under way");
    scene.execute(END_OWNER).await;
    check_sent_once(&scene).await;
    let log = scene.walhook.log();
    assert!(log.contains("others had taken this node for dead"), "it was registered again: {log}");
    assert!(!log.contains("interrupted: others took this node for dead"), "it began with its registration: {log}");
}

/// Also after the stop: its lanes are free then for whoever comes first, and nobody else is there.
#[tokio::test]
async fn an_outcome_outlives_a_session_that_ends_after_the_stop() {
    let mut scene = Scene::start(ITEMS).await;
    send_an_event_that_takes(&scene, 3 * SLOW).await;
    scene.walhook.signal("TERM");
    scene.wait_for_count("select count(*) from walhook.node where leaving", 1).await;
    scene.execute(END_OWNER).await;
    assert!(scene.walhook.wait(DEADLINE).await.success(), "{}", scene.walhook.log());
    check_sent_once(&scene).await;
}

/// Whoever stops everything may stop Postgres first.
#[tokio::test]
async fn a_stop_does_not_wait_for_a_postgres_that_does_not_come_back() {
    let mut cluster = Cluster::start(Options::default()).await.expect("a cluster");
    let database = TestDatabase::create_in(&cluster).await;
    let mut scene = Scene::in_database(database, ITEMS, |start| start.with(&["--grace", "300s"])).await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.receiver.on("/t", Script::always(Answer::hang()));
    scene.execute("insert into items (name) values ('a')").await;
    scene.arrivals("/t", 1).await;
    cluster.stop(Mode::Immediate).await.expect("it stopped");
    assert!(scene.walhook.terminate(DEADLINE).await.success(), "{}", scene.walhook.log());
    let log = scene.walhook.log();
    assert!(log.contains("the lanes do not come back: 1 events will be sent again"), "{log}");
}
