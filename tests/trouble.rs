//! A node that lives and cannot own lanes, or record anything in them.

mod support;

use serde_json::json;
use support::receiver::{Answer, Script};
use support::scene::{DEADLINE, Scene};
use support::wait::eventually;
use support::walhook::Start;
use walhook::queue::{self, Purpose};

const ITEMS: &str = "create table items (id int primary key)";

/// It says by its heartbeats that it delivers, so others left it its lanes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_take_the_lanes_of_a_node_that_cannot_record_until_it_can() {
    let quick = |start: Start| start.with(&["--node-timeout", "6s"]);
    let scene = Scene::start_with(ITEMS, quick).await;
    scene.create("t", "items", "/t", json!({})).await;
    let other = quick(Start::serve(&scene.database)).ready().await;
    let lanes = "select count(*) from (select from walhook.lanes where process_id is not null
                                       group by process_id having count(*) = 8) level";
    scene.wait_for_count(lanes, 2).await;
    // What was answered to the first of them cannot be recorded, whatever else is to be recorded with it.
    let refuse = "create function refuse() returns trigger language plpgsql as $$
                      begin
                          if new.response = 'unspeakable' then raise exception 'no'; end if;
                          return new;
                      end $$;
                  create trigger refuse before insert on walhook.attempt for each row execute function refuse()";
    scene.execute(refuse).await;
    scene.receiver.on("/t", Script::first(1, Answer::status(200).body("unspeakable")));
    scene.execute("insert into items select generate_series(1, 200)").await;
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 200).await;
    scene.wait_for_count(lanes, 2).await;
    let logs = [scene.walhook.log(), other.log()];
    let interrupted: Vec<bool> = logs.iter().map(|log| log.contains("recording outcomes interrupted: no")).collect();
    assert!(interrupted.contains(&true) && interrupted.contains(&false), "{logs:#?}");
}

/// The server does not see that it was given up, as it waits for a lock of somebody else's; the node stood by for
/// itself.
#[tokio::test]
async fn a_session_that_its_node_gave_up_owns_nothing_any_more() {
    let scene = Scene::start(ITEMS).await;
    scene.wait_for_count("select count(*) from walhook.node", 1).await;
    let node = scene.value("select id from walhook.node", &[]).await;
    let (waits, next) = (scene.database.connect().await, scene.database.connect().await);
    assert!(queue::own_session(&*waits, node, Purpose::Source(7)).await.expect("a name").is_some());
    assert!(queue::try_capture_lock(&*waits, 7).await.expect("a lock"));
    scene.execute("begin; lock table items").await;
    let append = tokio::spawn(async move { waits.batch_execute("select from public.items").await });
    assert!(!queue::try_capture_lock(&*next, 7).await.expect("no lock"));
    assert!(queue::own_session(&*next, node, Purpose::Source(7)).await.expect("a name").is_some());
    let takes = || async { if queue::try_capture_lock(&*next, 7).await.expect("a lock") { Ok(()) } else { Err("") } };
    eventually("the lock to be free", DEADLINE, takes).await;
    assert!(append.await.expect("no panic").is_err());
}
