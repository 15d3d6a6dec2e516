//! Tables that change while they are streamed: no event is lost, and each shows the table as it was at its change.

mod support;

use serde_json::{Value, json};
use support::scene::{DEADLINE, Scene, trigger};
use support::wait::eventually;

/// Statements, in one transaction and each in its own, and what the log has of them.
async fn check(ddl: &str, statements: &[&str], expected: Value) {
    check_with_status(ddl, statements, expected, "active").await;
}

async fn check_with_status(ddl: &str, statements: &[&str], expected: Value, status: &str) {
    let joined = statements.join("; ");
    for whole in [false, true] {
        let scene = Scene::start(ddl).await;
        scene.create("t", "items", "/t", json!({})).await;
        if whole {
            scene.execute(&format!("begin; {joined}; commit")).await;
        } else {
            for statement in statements {
                scene.execute(statement).await;
            }
        }
        assert_eq!(json!(scene.log().await), expected, "in one transaction: {whole}");
        let found = format!("select count(*) from walhook.trigger_status where trigger = 't' and status = '{status}'");
        scene.wait_for_count(&found, 1).await;
    }
}

#[tokio::test]
async fn columns_that_are_added_dropped_renamed_and_retyped_are_as_they_were_at_each_change() {
    let statements = [
        "insert into items values (1, 'a', 1)",
        "alter table items add extra text default 'd'",
        "update items set n = 2",
        "alter table items drop column name",
        "insert into items values (2, 3, 'x')",
        "alter table items rename n to number",
        "update items set number = 4 where id = 2",
        // Written anew, as is every row of it; that makes no event.
        "alter table items alter number type numeric(10, 2) using number + 0.5",
        "update items set number = 9.25 where id = 1",
        "alter table items alter number type text using 'n' || number",
        "alter table items add name bool, alter extra drop default, alter extra type int[] using '{1}'",
        "update items set name = true where id = 1",
        "delete from items where id = 2",
    ];
    let expected = json!([
        ["items", "INSERT", null, {"id": 1, "name": "a", "n": 1}],
        ["items", "UPDATE", {"id": 1, "name": "a", "n": 1, "extra": "d"}, {"id": 1, "name": "a", "n": 2, "extra": "d"}],
        ["items", "INSERT", null, {"id": 2, "n": 3, "extra": "x"}],
        ["items", "UPDATE", {"id": 2, "number": 3, "extra": "x"}, {"id": 2, "number": 4, "extra": "x"}],
        ["items", "UPDATE", {"id": 1, "number": 2.5, "extra": "d"}, {"id": 1, "number": 9.25, "extra": "d"}],
        [
            "items", "UPDATE", {"id": 1, "number": "n9.25", "extra": [1], "name": null},
            {"id": 1, "number": "n9.25", "extra": [1], "name": true},
        ],
        ["items", "DELETE", {"id": 2, "number": "n4.50", "extra": [1], "name": null}, null],
    ]);
    check("create table items (id int primary key, name text, n int)", &statements, expected).await;
}

#[tokio::test]
async fn rows_from_before_a_column_have_its_default_and_writing_it_out_is_no_change() {
    let ddl = "create table items (id int primary key, n int); insert into items values (1, 1), (2, 2), (3, 3)";
    let statements = [
        "alter table items add note text not null default 'd', add plain int, add at date default '2006-02-02'",
        // What it was when the column came is what old rows have, whatever becomes of the default.
        "alter table items alter note set default 'other'",
        "update items set note = note, plain = plain",
        "update items set n = 5 where id = 1",
        "delete from items where id = 2",
        "alter table items alter note drop default, drop column at",
        "delete from items where id = 3",
    ];
    let row = |id: i64, n: i64| json!({"id": id, "n": n, "note": "d", "plain": null, "at": "2006-02-02"});
    let expected = json!([
        ["items", "UPDATE", row(1, 1), row(1, 5)],
        ["items", "DELETE", row(2, 2), null],
        ["items", "DELETE", {"id": 3, "n": 3, "note": "d", "plain": null}, null],
    ]);
    check(ddl, &statements, expected).await;
}

/// But to the order in which they are delivered, until the trigger is replaced; see `upkeep`.
#[tokio::test]
async fn a_key_that_is_renamed_retyped_or_made_anew_does_not_matter_to_the_log() {
    let statements = [
        "insert into items values (1, 7)",
        "alter table items rename id to key",
        "update items set n = 8",
        "alter table items alter key type text using 'k' || key",
        "update items set n = 9, key = 'l'",
        "alter table items drop constraint items_pkey, add primary key (n)",
        "delete from items",
    ];
    let expected = json!([
        ["items", "INSERT", null, {"id": 1, "n": 7}],
        ["items", "UPDATE", {"key": 1, "n": 7}, {"key": 1, "n": 8}],
        ["items", "UPDATE", {"key": "k1", "n": 8}, {"key": "l", "n": 9}],
        ["items", "DELETE", {"key": "l", "n": 9}, null],
    ]);
    let ddl = "create table items (id int primary key, n int)";
    check_with_status(ddl, &statements, expected, "degraded").await;
}

/// Schema and table of each event, and the row's id.
async fn places(scene: &Scene) -> Vec<String> {
    scene.settle().await;
    let query = "select array(select schema_name || '.' || table_name || ' ' || (new ->> 'id') from walhook.events
                              where trigger = 't' order by seq)";
    scene.value(query, &[]).await
}

#[tokio::test]
async fn a_table_is_followed_to_another_name_and_another_schema() {
    let statements = [
        "insert into items values (1)",
        "alter table items rename to things",
        "insert into things values (2)",
        "create schema other; alter table things set schema other",
        "insert into other.things values (3)",
        "create table items (id int primary key); insert into items values (0)",
        "alter table other.things rename to items",
        "insert into other.items values (4)",
    ];
    for whole in [false, true] {
        let scene = Scene::start("create table items (id int primary key)").await;
        scene.create("t", "items", "/t", json!({})).await;
        match whole {
            true => scene.execute(&format!("begin; {}; commit", statements.join("; "))).await,
            false => {
                for statement in statements {
                    scene.execute(statement).await;
                }
            }
        }
        let expected = ["public.items 1", "public.things 2", "other.things 3", "other.items 4"];
        assert_eq!(places(&scene).await, expected, "in one transaction: {whole}");
        // It is replaced under its new name; the table that has the old one is another.
        let mut args = trigger("t", "items", &scene.receiver.url("/t"), json!({"replace": true}));
        let (status, body) = scene.call("create_event_trigger", args.clone()).await;
        assert_eq!((status, &body["error"]), (400, &json!("cannot replace table or schema for trigger")));
        args["table"] = json!({"schema": "other", "name": "items"});
        scene.succeed("create_event_trigger", args).await;
        scene.succeed("delete_event_trigger", json!({"name": "t"})).await;
        let left = "select count(*) from pg_publication_rel where prrelid = 'other.items'::regclass";
        assert_eq!(scene.count(left).await, 0);
    }
}

#[tokio::test]
async fn a_renamed_schema_or_root_is_followed() {
    let ddl = "create schema shop; create table shop.items (id int primary key) partition by range (id);
               create table shop.low partition of shop.items for values from (0) to (1000000)";
    let scene = Scene::start(ddl).await;
    let mut args = trigger("t", "", &scene.receiver.url("/t"), json!({}));
    args["table"] = json!({"schema": "shop", "name": "items"});
    scene.succeed("create_event_trigger", args).await;
    scene.execute("insert into shop.items values (1); alter schema shop rename to store").await;
    follow(&scene, "store.items", 2).await;
    scene.execute("alter table store.items rename to things").await;
    follow(&scene, "store.things", 100_000).await;
}

/// Writes rows until one comes under this name: the stream does not tell of every new name, and the catalogue is asked
/// every few seconds. From then on no row comes under another one, and none is lost.
async fn follow(scene: &Scene, name: &str, first: i64) {
    let last = std::cell::Cell::new(first);
    let arrived = || async {
        let id = last.replace(last.get() + 1);
        scene.execute(&format!("insert into {name} values ({id})")).await;
        let places = places(scene).await;
        let newest = places.last().cloned().unwrap_or_default();
        if newest == format!("{name} {id}") { Ok(()) } else { Err(newest) }
    };
    eventually("the new name", DEADLINE, arrived).await;
    let known = "select (count(*) - count(distinct id))::bigint from walhook.events where trigger = 't'";
    assert_eq!(scene.count(known).await, 0);
    let lost = format!(
        "select count(*) from {name} i where not exists
         (select from walhook.events e where e.trigger = 't' and (e.new ->> 'id')::int = i.id)"
    );
    assert_eq!(scene.count(&lost).await, 0);
}

#[tokio::test]
async fn a_table_that_is_dropped_and_made_again_within_a_transaction_is_another_one() {
    let scene = Scene::start("create table items (id int primary key)").await;
    scene.create("t", "items", "/t", json!({})).await;
    scene
        .execute(
            "begin; insert into items values (1); drop table items; create table items (id text primary key, n int);
             insert into items values ('two', 2); commit; insert into items values ('three', 3)",
        )
        .await;
    assert_eq!(json!(scene.log().await), json!([["items", "INSERT", null, {"id": 1}]]));
    let degraded = "select count(*) from walhook.trigger_status where trigger = 't' and status = 'degraded'
                    and reason like '%another table has its name now%'";
    scene.wait_for_count(degraded, 1).await;
    let args = trigger("t", "items", &scene.receiver.url("/t"), json!({"replace": true}));
    scene.succeed("create_event_trigger", args).await;
    scene.execute("insert into items values ('four', 4)").await;
    assert_eq!(scene.log().await[1..], [json!(["items", "INSERT", null, {"id": "four", "n": 4}])]);
}

#[tokio::test]
async fn labels_of_an_enum_that_are_added_and_renamed_come_as_they_were() {
    let ddl =
        "create type mood as enum ('so so', 'sad'); create table items (id int primary key, m mood, all_m mood[])";
    let scene = Scene::start(ddl).await;
    scene.create("t", "items", "/t", json!({})).await;
    for statement in [
        "insert into items values (1, 'sad', '{sad}')",
        "alter type mood add value 'glad' before 'sad'",
        "update items set m = 'glad', all_m = all_m || 'glad'::mood",
        "alter type mood rename value 'sad' to 'blue'",
        "update items set m = 'blue'",
    ] {
        scene.execute(statement).await;
    }
    let row = |mood: &str, all: &[&str]| json!({"id": 1, "m": mood, "all_m": all});
    let log = scene.log().await;
    let expected = [
        json!(["items", "INSERT", null, row("sad", &["sad"])]),
        json!(["items", "UPDATE", row("sad", &["sad"]), row("glad", &["sad", "glad"])]),
        json!(["items", "UPDATE", row("glad", &["blue", "glad"]), row("blue", &["blue", "glad"])]),
    ];
    assert_eq!(log, expected);
}
