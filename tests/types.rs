//! Types that change while rows are written, and what is made of a type that the catalogue does not have any more.

mod support;

use std::cell::Cell;
use std::time::Duration;

use serde_json::{Value, json};
use support::scene::{DEADLINE, Scene};
use support::wait::eventually;
use support::walhook::Start;
use walhook::postgres::cluster::{Cluster, Options};

const PAIR: &str = "create type pair as (a int, b text); create table t (id int primary key, p pair)";

/// The new rows in the log, in commit order.
async fn new_rows(scene: &Scene, count: i64) -> Vec<Value> {
    scene.wait_for_count("select count(*) from walhook.event", count).await;
    let query = "select new from walhook.event order by commit_lsn, ordinal";
    let rows = scene.sql.query(query, &[]).await.expect("the events");
    rows.iter().map(|row| serde_json::from_str(row.get(0)).expect("JSON")).collect()
}

#[tokio::test]
async fn an_altered_composite_is_followed_at_once() {
    let scene = Scene::start(PAIR).await;
    scene.create("t", "t", "/t", json!({})).await;
    // Each is read before the next is altered: the catalogue shows only what is now.
    scene.execute("insert into t values (1, (1, 'x'))").await;
    new_rows(&scene, 1).await;
    scene.execute("alter type pair add attribute c date; insert into t values (2, (2, 'y', '2006-02-02'))").await;
    new_rows(&scene, 2).await;
    scene.execute("alter type pair drop attribute a; insert into t values (3, ('z', null))").await;
    let expected = json!([
        {"id": 1, "p": {"a": 1, "b": "x"}},
        {"id": 2, "p": {"a": 2, "b": "y", "c": "2006-02-02"}},
        {"id": 3, "p": {"b": "z", "c": null}},
    ]);
    assert_eq!(json!(new_rows(&scene, 3).await), expected);
}

#[tokio::test]
async fn a_renamed_attribute_is_followed_by_the_next_transaction_a_second_later() {
    let scene = Scene::start(PAIR).await;
    scene.create("t", "t", "/t", json!({})).await;
    scene.execute("insert into t values (0, (0, 'x')); alter type pair rename attribute a to \"A\"").await;
    // Nothing tells of the new name but the catalogue, which is looked at once a second.
    let written = Cell::new(1);
    let renamed = || async {
        let count = written.get() + 1;
        written.set(count);
        scene.execute(&format!("insert into t values ({count}, (7, 'y'))")).await;
        let last = new_rows(&scene, count).await.pop().expect("a row");
        if last["p"] == json!({"A": 7, "b": "y"}) { Ok(()) } else { Err(last.to_string()) }
    };
    eventually("the new name", DEADLINE, renamed).await;
}

#[tokio::test]
async fn what_was_written_before_a_type_changed_is_sent_as_far_as_it_is_certain() {
    let mut scene = Scene::start(&format!("{PAIR}; create table gone (id int primary key, p pair, n int[])")).await;
    scene.create("t", "t", "/t", json!({})).await;
    scene.create("gone", "gone", "/gone", json!({})).await;
    scene.walhook.terminate(Duration::from_secs(20)).await;
    scene.execute("insert into t values (1, (1, 'x')); alter type pair add attribute c date").await;
    scene.execute("insert into t values (2, (2, 'y', null)); alter type pair drop attribute a").await;
    scene.execute("insert into gone values (3, ('z', null), '{{1,2}}'); drop table gone, t; drop type pair").await;
    let walhook = Start::serve(&scene.database).on_port(scene.walhook.port()).ready().await;
    scene.walhook = walhook;
    let expected = json!([
        {"id": 1, "p": "(1,x)"},
        {"id": 2, "p": "(2,y,)"},
        {"id": 3, "p": "(z,)", "n": [[1, 2]]},
    ]);
    assert_eq!(json!(new_rows(&scene, 3).await), expected);
    assert!(scene.walhook.log().contains("a type was dropped"), "{}", scene.walhook.log());
}

#[tokio::test]
async fn rows_from_before_attributes_were_added_have_the_fields_of_then() {
    let mut scene = Scene::start(PAIR).await;
    scene.create("t", "t", "/t", json!({})).await;
    scene.walhook.terminate(Duration::from_secs(20)).await;
    scene.execute("insert into t values (1, (1, 'x')); alter type pair add attribute c date").await;
    scene.execute("insert into t values (2, (2, 'y', '2006-02-02'))").await;
    let walhook = Start::serve(&scene.database).on_port(scene.walhook.port()).ready().await;
    scene.walhook = walhook;
    let expected = json!([{"id": 1, "p": {"a": 1, "b": "x"}}, {"id": 2, "p": {"a": 2, "b": "y", "c": "2006-02-02"}}]);
    assert_eq!(json!(new_rows(&scene, 2).await), expected);
}

#[tokio::test]
async fn columns_types_and_labels_that_come_later_are_known_when_their_rows_come() {
    let scene = Scene::start("create table t (id int primary key); create type mood as enum ('so so')").await;
    scene.create("t", "t", "/t", json!({})).await;
    // All in one transaction: the catalogue is asked when the commit is in the WAL and may not be visible yet.
    scene
        .execute(
            "begin; create type pair as (a int, b mood[]); create domain pairs as pair[]; alter table t add p pairs;
                   insert into t values (1, array[row(1, '{so so,null}')]::pairs); commit;",
        )
        .await;
    scene.execute("alter type mood add value 'b\"er'").await;
    scene.execute("insert into t values (2, array[row(2, array['b\"er'::mood])]::pairs)").await;
    scene.execute("alter table t alter p type text using 'x'; insert into t values (3, '{}')").await;
    let expected = json!([
        {"id": 1, "p": [{"a": 1, "b": ["so so", null]}]},
        {"id": 2, "p": [{"a": 2, "b": ["b\"er"]}]},
        {"id": 3, "p": "{}"},
    ]);
    assert_eq!(json!(new_rows(&scene, 3).await), expected);
}

#[tokio::test]
async fn a_cast_to_json_by_a_function_is_not_followed_and_the_log_says_so() {
    let scene = Scene::start(
        "create type mood as enum ('so so'); create table t (id int primary key, m mood);
         create function as_json(mood) returns json language sql immutable as 'select ''{}''::json';
         create cast (mood as json) with function as_json(mood)",
    )
    .await;
    scene.create("t", "t", "/t", json!({})).await;
    scene.execute("insert into t values (1, 'so so')").await;
    assert_eq!(json!(new_rows(&scene, 1).await), json!([{"id": 1, "m": "so so"}]));
    assert!(scene.walhook.log().contains("public.mood are sent as text"), "{}", scene.walhook.log());
}

#[tokio::test]
async fn big_numbers_are_strings_where_that_is_asked_for() {
    let ddl = "create domain amount as numeric; create table t (id int primary key, b bigint, n numeric(9,2),
               d double precision, r real, s smallint, m amount, a bigint[], j json)";
    let scene = Scene::start_with(ddl, |start| start.with(&["--stringify-numeric-types"])).await;
    scene.create("t", "t", "/t", json!({})).await;
    scene.execute("insert into t values (1, 50755254975729665, 1.5, 'NaN', 0.5, 2, 3.10, '{4}', '5')").await;
    let expected = json!({"id": 1, "b": "50755254975729665", "n": "1.50", "d": "NaN", "r": 0.5, "s": 2, "m": "3.10",
                          "a": [4], "j": 5});
    assert_eq!(new_rows(&scene, 1).await, [expected]);
}

#[tokio::test]
async fn a_commit_that_waits_for_a_standby_is_waited_for() {
    let cluster = Cluster::start(Options::default()).await.expect("a cluster");
    let database = support::cluster::TestDatabase::create_in(&cluster).await;
    let scene = Scene::in_database(database, "create table t (id int primary key)", |start| start).await;
    scene.create("t", "t", "/t", json!({})).await;
    scene.execute("alter system set synchronous_standby_names = 'nobody'").await;
    scene.execute("select pg_reload_conf()").await;
    let shown = || async {
        let fresh = scene.database.connect().await;
        let row = fresh.query_one("select current_setting('synchronous_standby_names')", &[]).await.expect("a setting");
        if row.get::<_, &str>(0) == "nobody" { Ok(()) } else { Err(String::new()) }
    };
    eventually("the setting", DEADLINE, shown).await;
    let writer = scene.database.connect().await;
    let write = "begin; create type public.pair as (a int, b text); alter table public.t add p public.pair; \
                 insert into public.t values (1, (1, 'x')); commit";
    let written = tokio::spawn(async move { writer.batch_execute(write).await });
    // It is in the WAL, walhook has asked for the type, and nobody can see it yet.
    scene.wait_for_count("select count(*) from pg_stat_activity where application_name = 'walhook types'", 1).await;
    assert_eq!(scene.count("select count(*) from pg_type where typname = 'pair'").await, 0);
    scene.execute("alter system reset synchronous_standby_names").await;
    scene.execute("select pg_reload_conf()").await;
    written.await.expect("the writer").expect("a commit");
    assert_eq!(new_rows(&scene, 1).await, [json!({"id": 1, "p": {"a": 1, "b": "x"}})]);
}
