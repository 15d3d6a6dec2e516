//! Another slot takes over: on the same server, and where a database was restored on another one, whose positions begin
//! anew, so that the log knows of positions that are not reached for long.

mod support;

use futures_util::{SinkExt, TryStreamExt, pin_mut};
use serde_json::{Value, json};
use support::cluster::TestDatabase;
use support::scene::{DEADLINE, Scene};
use support::walhook::Start;
use walhook::postgres::Session;
use walhook::postgres::cluster::{Cluster, Options};

const ITEMS: &str = "create table items (name text primary key)";

/// Does to walhook's tables what a dump of one database and its restoration in another do.
async fn restore(from: &Session, to: &Session) {
    let tables = "select array(select oid::regclass::text from pg_class where relnamespace = 'walhook'::regnamespace
                               and relkind in ('r', 'p') and not relispartition and relname <> 'migration')";
    let tables: Vec<String> = to.query_one(tables, &[]).await.expect("the tables").get(0);
    let empty = format!("set session_replication_role = replica; truncate {}", tables.join(", "));
    to.batch_execute(&empty).await.expect("empty tables");
    for table in tables {
        let out = from.copy_out(&format!("copy (select * from {table}) to stdout")).await.expect("a copy");
        let content: Vec<bytes::Bytes> = out.try_collect().await.expect("a table's content");
        let sink = to.copy_in(&format!("copy {table} from stdin")).await.expect("a copy");
        pin_mut!(sink);
        for piece in content {
            sink.send(piece).await.expect("room for it");
        }
        sink.finish().await.expect("the same content");
    }
    to.batch_execute("reset session_replication_role").await.expect("as it was");
}

/// With a trigger and an event that was delivered, so that the day's partitions are there.
async fn scene_in(cluster: &Cluster) -> Scene {
    let scene = Scene::in_database(TestDatabase::create_in(cluster).await, ITEMS, |start| start).await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items values ('a')").await;
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 1).await;
    scene
}

#[tokio::test]
async fn after_an_accepted_gap_capture_begins_at_the_new_slot_though_the_log_was_further() {
    let old_server = Cluster::start(Options::default()).await.expect("a cluster");
    let mut old = scene_in(&old_server).await;
    for name in ["b", "c"] {
        old.execute(&format!("insert into items values ('{name}'); select pg_switch_wal()")).await;
    }
    old.execute("insert into items values ('d')").await;
    old.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 4).await;
    assert!(old.walhook.terminate(DEADLINE).await.success(), "{}", old.walhook.log());

    let new_server = Cluster::start(Options::default()).await.expect("a cluster");
    let mut new = scene_in(&new_server).await;
    assert!(new.walhook.terminate(DEADLINE).await.success(), "{}", new.walhook.log());
    new.execute(&format!("select pg_drop_replication_slot('{}')", new.database.slot())).await;
    restore(&old.sql, &new.sql).await;
    let ahead = "select least((select max(progress_lsn) from walhook.event), (select max(lsn) from walhook.progress))
                        > pg_current_wal_lsn() + 1048576";
    assert!(new.value::<bool>(ahead, &[]).await, "or this would show nothing");

    let mut refused = Start::serve(&new.database).spawn();
    assert_eq!(refused.wait(DEADLINE).await.code(), Some(3), "{}", refused.log());
    assert!(refused.log().contains("this is another database cluster"), "{}", refused.log());
    let Scene { receiver, sql, database, .. } = new;
    let walhook = Start::serve(&database).with(&["--accept-gap"]).ready().await;
    let new = Scene { walhook, receiver, sql, database };
    // Its table has another number here.
    new.succeed("delete_event_trigger", json!({"name": "t"})).await;
    new.create("t", "items", "/t", json!({})).await;
    new.execute("insert into items values ('e')").await;
    new.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 5).await;
    let new = new.crash_and_restart().await;
    new.execute("insert into items values ('f')").await;
    let names: Vec<Value> = new.changes("/t", 3).await.iter().map(|change| change[2]["name"].clone()).collect();
    assert_eq!(names, ["a", "e", "f"]);
    let logged = "select array(select new ->> 'name' from walhook.events order by seq)";
    assert_eq!(new.value::<Vec<String>>(logged, &[]).await, ["a", "b", "c", "d", "e", "f"]);
    drop(old);
}

#[tokio::test]
async fn a_slot_made_in_advance_takes_over_without_loss_or_repeat() {
    let server = Cluster::start(Options::default()).await.expect("a cluster");
    let mut scene = scene_in(&server).await;
    scene.execute("select pg_create_logical_replication_slot('ahead', 'pgoutput')").await;
    scene.execute("insert into items values ('b')").await;
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 2).await;
    assert!(scene.walhook.terminate(DEADLINE).await.success(), "{}", scene.walhook.log());
    scene.execute("insert into items values ('c')").await;
    let Scene { receiver, sql, database, .. } = scene;
    let url = database.url().to_owned();
    let start = Start::default().with(&["serve", "--database-url", &url, "--slot", "ahead"]);
    let walhook = start.with(&["--publication", &database.publication(), "--accept-gap"]).ready().await;
    let scene = Scene { walhook, receiver, sql, database };
    scene.execute("insert into items values ('d')").await;
    let logged = "select array(select new ->> 'name' from walhook.events order by seq)";
    scene.arrivals("/t", 4).await;
    assert_eq!(scene.value::<Vec<String>>(logged, &[]).await, ["a", "b", "c", "d"]);
    drop(scene);
}
