//! Generated columns: which of them reach an event, and that the application's writes go on whatever Postgres does not
//! publish. From version 18 on, a replica identity with such a column makes every UPDATE and DELETE fail.

mod support;

use serde_json::{Value, json};
use support::scene::{DEADLINE, Scene, trigger};
use support::wait::eventually;

async fn version(scene: &Scene) -> i64 {
    scene.count("select current_setting('server_version_num')::bigint / 10000").await
}

async fn identity(scene: &Scene, table: &str) -> String {
    scene.value("select relreplident::text from pg_class where oid = $1::text::regclass", &[&table]).await
}

async fn refusal(scene: &Scene, table: &str, changes: Value) -> String {
    let args = trigger("refused", table, &scene.receiver.url("/t"), changes);
    let (status, body) = scene.call("create_event_trigger", args).await;
    assert_eq!(status, 400, "{body}");
    body["error"].as_str().expect("a text").to_owned()
}

async fn wait_for_reason(scene: &Scene, reason: &str) {
    let check = || async {
        let found: String = scene.value("select coalesce(max(reason), '') from walhook.trigger_status", &[]).await;
        if found.contains(reason) { Ok(()) } else { Err(found) }
    };
    eventually(reason, DEADLINE, check).await;
}

#[tokio::test]
async fn stored_ones_are_sent_where_postgres_publishes_them() {
    let ddl = "create table items (id int primary key, n int, twice int generated always as (n * 2) stored)";
    let scene = Scene::start(ddl).await;
    scene.create("t", "items", "/t", json!({})).await;
    assert_eq!(identity(&scene, "items").await, "f");
    let twice = json!({"update": {"columns": ["twice"]}});
    let published = version(&scene).await >= 18;
    if published {
        scene.create("twice", "items", "/twice", twice).await;
    } else {
        let error = refusal(&scene, "items", twice).await;
        assert!(error.contains("column \"twice\" is generated"), "{error}");
    }
    scene.execute("insert into items values (1, 1); update items set n = 2; delete from items").await;
    let mut changes = scene.changes("/t", 3).await;
    changes.sort_by_key(|change| change[0].to_string());
    let row = |n: i64| if published { json!({"id": 1, "n": n, "twice": n * 2}) } else { json!({"id": 1, "n": n}) };
    let expected = json!([["DELETE", row(2), null], ["INSERT", null, row(1)], ["UPDATE", row(1), row(2)]]);
    assert_eq!(json!(changes), expected);
    if published {
        scene.arrivals("/twice", 3).await;
    }
}

#[tokio::test]
async fn virtual_ones_do_not_break_the_applications_writes() {
    let scene = Scene::start("create table bare (n int)").await;
    if version(&scene).await < 18 {
        println!("virtual columns came with Postgres 18");
        return;
    }
    scene
        .execute(
            "create table keyed (id int primary key, n int, twice int generated always as (n * 2));
             create table keyless (n int, twice int generated always as (n * 2))",
        )
        .await;
    let error = refusal(&scene, "keyless", json!({})).await;
    assert!(error.contains("give it a primary key"), "{error}");
    let error = refusal(&scene, "keyed", json!({"insert": {"columns": "*", "payload": ["twice"]}})).await;
    assert!(error.contains("column \"twice\" is generated"), "{error}");

    scene.create("keyed", "keyed", "/keyed", json!({})).await;
    assert_eq!(identity(&scene, "keyed").await, "d");
    wait_for_reason(&scene, "Postgres allows no FULL one with generated columns").await;
    scene.execute("insert into keyed values (1, 1); update keyed set n = 2").await;
    let changes = scene.changes("/keyed", 2).await;
    assert!(changes.contains(&json!(["UPDATE", {"id": 1}, {"id": 1, "n": 2}])), "{changes:?}");
    scene.succeed("delete_event_trigger", json!({"name": "keyed"})).await;

    // One that comes later: the table has nothing else to stand on and leaves the publication.
    scene.create("bare", "bare", "/bare", json!({})).await;
    scene.execute("insert into bare values (1); alter table bare add twice int generated always as (n * 2)").await;
    wait_for_reason(&scene, "give it a primary key").await;
    scene.execute("update bare set n = 2").await;
}

#[tokio::test]
async fn a_virtual_one_that_comes_later_gives_the_table_its_key_as_identity() {
    let ddl = "create table items (id int primary key, n int); create table guarded (id int primary key, n int)";
    let scene = Scene::start(ddl).await;
    if version(&scene).await < 18 {
        println!("virtual columns came with Postgres 18");
        return;
    }
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items values (1, 1); alter table items add twice int generated always as (n * 2)").await;
    let keyed = || async { if identity(&scene, "items").await == "d" { Ok(()) } else { Err("not the key") } };
    eventually("the key as identity", DEADLINE, keyed).await;
    scene.execute("update items set n = 2").await;
    let changes = scene.changes("/t", 2).await;
    assert!(changes.contains(&json!(["UPDATE", {"id": 1}, {"id": 1, "n": 2}])), "{changes:?}");

    // With the event trigger there is no moment at which a write would fail.
    scene.create("guarded", "guarded", "/guarded", json!({})).await;
    assert_eq!(identity(&scene, "guarded").await, "f");
    scene
        .execute(
            "create event trigger keep on ddl_command_end when tag in ('CREATE TABLE', 'ALTER TABLE')
                 execute function walhook.keep_identity();
             insert into guarded values (1, 1);
             begin; alter table guarded add twice int generated always as (n * 2); update guarded set n = 2; commit;
             begin; alter table guarded drop constraint guarded_pkey; commit",
        )
        .await;
    let changes = scene.changes("/guarded", 2).await;
    assert!(changes.contains(&json!(["UPDATE", {"id": 1}, {"id": 1, "n": 2}])), "{changes:?}");
}
