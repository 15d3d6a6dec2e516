//! What old rows hold under each replica identity, and how an event says what it could not know.

mod support;

use serde_json::{Value, json};
use support::scene::Scene;

/// Longer than what Postgres keeps in the row itself, also compressed.
const BIG: &str = "(select string_agg(md5(n::text), '') from generate_series(1, 400) n)";

/// The log from its beginning, in the order of the commits: `[operation, old, new, missing, old_partial, undecided]`.
/// Big values are shown as `"big"`.
async fn log(scene: &Scene, count: i64) -> Vec<Value> {
    scene.wait_for_count("select count(*) from walhook.event", count).await;
    let query = "select json_build_array(operation, old, new, missing_columns, old_partial, undecided)::text
                 from walhook.events order by seq";
    let rows = scene.sql.query(query, &[]).await.expect("the log");
    let big: String = scene.value(&format!("select {BIG}"), &[]).await;
    rows.iter().map(|row| serde_json::from_str(&row.get::<_, String>(0).replace(&big, "big")).expect("JSON")).collect()
}

async fn keeping(ddl: &str) -> Scene {
    Scene::start_with(ddl, |start| start.with(&["--replica-identity", "keep"])).await
}

#[tokio::test]
async fn a_key_gives_the_old_key_and_says_that_the_rest_is_not_known() {
    let scene = keeping("create table items (id int primary key, name text, body text)").await;
    scene.create("t", "items", "/t", json!({"update": {"columns": ["name"]}})).await;
    scene.execute(&format!("insert into items values (1, null, {BIG})")).await;
    scene.execute("update items set name = 'a'; update items set id = 2; delete from items").await;
    let expected = json!([
        ["INSERT", null, {"id": 1, "name": null, "body": "big"}, null, false, false],
        ["UPDATE", {"id": 1}, {"id": 1, "name": "a"}, ["body"], true, true],
        // A changed key is one update with both keys.
        ["UPDATE", {"id": 1}, {"id": 2, "name": "a"}, ["body"], true, true],
        ["DELETE", {"id": 2}, null, null, true, false],
    ]);
    assert_eq!(json!(log(&scene, 4).await), expected);
    let requests = scene.arrivals("/t", 4).await;
    for request in &requests {
        let op = request.json()["event"]["op"].as_str().expect("an operation").to_owned();
        let names = ["walhook-missing-columns", "walhook-old", "walhook-update"];
        let expected = match op.as_str() {
            "INSERT" => [None, None, None],
            "DELETE" => [None, Some("partial"), None],
            _ => [Some("body"), Some("partial"), Some("undecided")],
        };
        assert_eq!(names.map(|name| request.header(name)), expected, "{op}");
    }
}

#[tokio::test]
async fn updates_of_the_key_alone_are_decided_without_the_rest_of_the_old_row() {
    let scene = keeping("create table items (id int primary key, name text)").await;
    scene.create("t", "items", "/t", json!({"update": {"columns": ["id"]}, "delete": null})).await;
    scene.execute("insert into items values (1, 'a'); update items set name = 'b'; update items set id = 2").await;
    scene.execute("insert into items values (3, null)").await;
    let expected = json!([
        ["INSERT", null, {"id": 1, "name": "a"}, null, false, false],
        ["UPDATE", {"id": 1}, {"id": 2, "name": "b"}, null, true, false],
        ["INSERT", null, {"id": 3, "name": null}, null, false, false],
    ]);
    assert_eq!(json!(log(&scene, 3).await), expected);
}

#[tokio::test]
async fn an_index_gives_its_columns_and_an_identity_of_nothing_is_refused() {
    let ddl = "create table items (id int primary key, code text not null, n int);
               create unique index by_code on items (code); alter table items replica identity using index by_code";
    let scene = keeping(ddl).await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items values (1, 'a', null); update items set n = 1; update items set code = 'b'").await;
    scene.execute("delete from items").await;
    let expected = json!([
        ["INSERT", null, {"id": 1, "code": "a", "n": null}, null, false, false],
        ["UPDATE", {"code": "a"}, {"id": 1, "code": "a", "n": 1}, null, true, true],
        ["UPDATE", {"code": "a"}, {"id": 1, "code": "b", "n": 1}, null, true, false],
        ["DELETE", {"code": "b"}, null, null, true, false],
    ]);
    assert_eq!(json!(log(&scene, 4).await), expected);
    scene.execute("create table none (id int primary key); alter table none replica identity nothing").await;
    let args = support::scene::trigger("u", "none", &scene.receiver.url("/u"), json!({}));
    let (status, body) = scene.call("create_event_trigger", args).await;
    assert_eq!(status, 400, "{body}");
    let statements = &body["internal"][0]["statements"];
    assert_eq!(*statements, json!(["ALTER TABLE \"public\".\"none\" REPLICA IDENTITY FULL;"]));
}

#[tokio::test]
async fn an_identity_that_is_changed_while_walhook_streams_counts_from_there() {
    let scene = Scene::start("create table items (id int primary key, code text not null unique, body text)").await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute(&format!("insert into items values (1, 'a', {BIG}); update items set code = 'b'")).await;
    // In the middle of a transaction, too.
    scene.execute("begin; update items set code = 'c'; alter table items replica identity default").await;
    scene.execute("update items set code = 'd'; commit").await;
    scene.execute("alter table items replica identity using index items_code_key; update items set code = 'e'").await;
    scene.execute("alter table items replica identity full; update items set code = 'f'").await;
    let old = |code: &str| json!({"id": 1, "code": code, "body": "big"});
    let expected = json!([
        ["INSERT", null, old("a"), null, false, false],
        ["UPDATE", old("a"), old("b"), null, false, false],
        ["UPDATE", old("b"), old("c"), null, false, false],
        ["UPDATE", {"id": 1}, {"id": 1, "code": "d"}, ["body"], true, true],
        ["UPDATE", {"code": "d"}, {"id": 1, "code": "e"}, ["body"], true, false],
        ["UPDATE", old("e"), old("f"), null, false, false],
    ]);
    assert_eq!(json!(log(&scene, 6).await), expected);
}

#[tokio::test]
async fn partitions_whose_identity_differs_from_the_roots_are_read_for_what_they_hold() {
    let ddl = "create table parts (id int primary key, name text, body text) partition by range (id);
               create table low partition of parts for values from (0) to (10);
               create table high (body text, gone int, name text, id int primary key); alter table high drop gone;
               create table highest (id int primary key, name text not null, body text, unique (name))";
    let scene = keeping(ddl).await;
    scene.execute("alter table parts replica identity full; alter table low replica identity full").await;
    scene.create("t", "parts", "/t", json!({})).await;
    // Attached later, with identities of their own: the primary key, and another index.
    scene.execute("alter table parts attach partition high for values from (10) to (20)").await;
    scene.execute("alter table highest replica identity using index highest_name_key").await;
    scene.execute("alter table parts attach partition highest for values from (20) to (30)").await;
    scene.execute(&format!("insert into parts select id, 'n', {BIG} from unnest(array[1, 11, 21]) id")).await;
    scene.execute("update parts set name = 'm' where id < 20; update parts set id = 22, body = '' where id = 21").await;
    scene.execute("update parts set name = null where id = 1; delete from parts").await;
    let log = log(&scene, 10).await;
    let whole = |id: i64, name: &str| json!({"id": id, "name": name, "body": "big"});
    let after = |name: &str| json!({"id": 11, "name": name});
    let expected = json!([
        ["UPDATE", whole(1, "n"), whole(1, "m"), null, false, false],
        // Without an old row nothing tells which partition it was, so neither the id nor the name is known to be the
        // same.
        ["UPDATE", {}, after("m"), ["body"], true, true],
        ["UPDATE", {}, {"id": 22, "name": "n", "body": ""}, null, true, true],
        ["UPDATE", whole(1, "m"), {"id": 1, "name": null, "body": "big"}, null, false, false],
        ["DELETE", {"id": 1, "name": null, "body": "big"}, null, null, false, false],
        ["DELETE", {"id": 11}, null, null, true, false],
        ["DELETE", {"name": "n"}, null, null, true, false],
    ]);
    assert_eq!(json!(log[3..]), expected);
}
