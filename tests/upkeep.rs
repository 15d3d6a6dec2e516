//! What becomes of triggers and of the application's writes when tables change under them.

mod support;

use serde_json::{Value, json};
use support::receiver::{Answer, Script};
use support::scene::{DEADLINE, Scene, trigger};
use support::wait::eventually;

/// Waits until the trigger's status and reason are as told.
async fn wait_for(scene: &Scene, name: &str, status: &str, reason: &str) {
    let check = || async {
        let query = "select status, coalesce(reason, '') from walhook.trigger_status where trigger = $1";
        let row = scene.sql.query_one(query, &[&name]).await.expect("a trigger");
        let (found, why): (String, String) = (row.get(0), row.get(1));
        if found == status && why.contains(reason) { Ok(()) } else { Err(format!("{found}: {why}")) }
    };
    eventually(&format!("{name} {status} {reason:?}"), DEADLINE, check).await;
}

async fn replace(scene: &Scene, name: &str, table: &str, path: &str, mut changes: Value) {
    changes["replace"] = json!(true);
    scene.succeed("create_event_trigger", trigger(name, table, &scene.receiver.url(path), changes)).await;
}

async fn identity(scene: &Scene, table: &str) -> String {
    scene.value("select relreplident::text from pg_class where oid = $1::text::regclass", &[&table]).await
}

#[tokio::test]
async fn a_column_that_is_gone_degrades_its_trigger_until_it_comes_back_or_the_trigger_is_replaced() {
    let scene = Scene::start("create table items (id int primary key, name text, n int)").await;
    let columns = json!({"update": {"columns": ["name"], "payload": ["id", "name"]}});
    scene.create("t", "items", "/t", columns).await;
    scene.create("other", "items", "/other", json!({})).await;
    scene.execute("insert into items values (1, 'a', 1); update items set n = 2; update items set name = 'b'").await;
    wait_for(&scene, "t", "active", "").await;
    // Whether that is a new name for the column nobody can tell, so nothing is left out.
    scene.execute("alter table items rename name to title; update items set title = 'c'; update items set n = 3").await;
    wait_for(&scene, "t", "degraded", "update.columns names what the table does not have (\"name\")").await;
    wait_for(&scene, "t", "degraded", "update.payload names what the table does not have (\"name\")").await;
    wait_for(&scene, "other", "active", "").await;
    scene.execute("alter table items rename title to name; update items set n = 4; update items set name = 'd'").await;
    wait_for(&scene, "t", "active", "").await;
    scene.execute("alter table items drop name; update items set n = 5").await;
    wait_for(&scene, "t", "degraded", "update.columns").await;
    replace(&scene, "t", "items", "/t", json!({"update": {"columns": ["n"]}})).await;
    wait_for(&scene, "t", "active", "").await;
    scene.execute("update items set n = 6").await;
    let updates = "select json_build_array(new, undecided)::text from walhook.events
                   where trigger = 't' and operation = 'UPDATE' order by seq";
    scene.wait_for_count(&format!("select count(*) from ({updates}) events"), 6).await;
    let rows = scene.sql.query(updates, &[]).await.expect("the log");
    let found: Vec<Value> = rows.iter().map(|row| serde_json::from_str(row.get(0)).expect("JSON")).collect();
    let expected = json!([
        [{"id": 1, "name": "b"}, false],
        [{"id": 1}, true],
        [{"id": 1}, true],
        [{"id": 1, "name": "d"}, false],
        [{"id": 1}, true],
        [{"id": 1, "n": 6}, false],
    ]);
    assert_eq!(json!(found), expected);
}

#[tokio::test]
async fn a_dropped_table_degrades_its_trigger_which_can_be_replaced_and_deleted() {
    let scene = Scene::start("create table items (id int primary key)").await;
    for name in ["t", "u"] {
        scene.create(name, "items", &format!("/{name}"), json!({})).await;
    }
    // What was committed before is delivered, also where it is read only now.
    scene.execute("begin; insert into items values (1); drop table items; commit").await;
    wait_for(&scene, "t", "degraded", "table dropped: \"public\".\"items\"; delete the trigger, or").await;
    scene.arrivals("/t", 1).await;
    scene.execute("create table items (id int primary key, name text); insert into items values (2)").await;
    wait_for(&scene, "t", "degraded", "another table has its name now").await;
    replace(&scene, "t", "items", "/t", json!({})).await;
    wait_for(&scene, "t", "active", "").await;
    wait_for(&scene, "u", "degraded", "table dropped").await;
    scene.succeed("delete_event_trigger", json!({"name": "u"})).await;
    scene.execute("insert into items values (3, 'c')").await;
    let expected = json!([["INSERT", null, {"id": 1}], ["INSERT", null, {"id": 3, "name": "c"}]]);
    assert_eq!(json!(scene.changes("/t", 2).await), expected);
    scene.execute("drop table items").await;
    wait_for(&scene, "t", "degraded", "table dropped").await;
    scene.succeed("delete_event_trigger", json!({"name": "t"})).await;
    scene.wait_for_count("select count(*) from walhook.trigger_problem", 0).await;
}

#[tokio::test]
async fn a_key_that_is_dropped_under_keep_takes_the_table_out_before_more_of_the_applications_writes_fail() {
    let ddl = "create table items (id int primary key, name text); insert into items values (1, 'a')";
    let scene = Scene::start_with(ddl, |start| start.with(&["--replica-identity", "keep"])).await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("alter table items drop constraint items_pkey").await;
    wait_for(&scene, "t", "degraded", "run: ALTER TABLE \"public\".\"items\" REPLICA IDENTITY FULL;").await;
    scene.execute("update items set name = 'b'; insert into items values (2)").await;
    // With an identity again it needs one more thing, because what happened meanwhile is not in the log.
    scene.execute("alter table items add primary key (id)").await;
    wait_for(&scene, "t", "degraded", "not captured until the trigger is replaced").await;
    replace(&scene, "t", "items", "/t", json!({})).await;
    wait_for(&scene, "t", "active", "").await;
    scene.execute("update items set name = 'c' where id = 2").await;
    let expected = json!([["UPDATE", {"id": 2}, {"id": 2, "name": "c"}]]);
    assert_eq!(json!(scene.changes("/t", 1).await), expected);
    scene.succeed("delete_event_trigger", json!({"name": "t"})).await;
    assert_eq!(scene.count("select count(*) from pg_publication_rel where prrelid = 'items'::regclass").await, 0);
}

#[tokio::test]
async fn an_identity_that_is_taken_away_is_set_again_and_one_that_was_chosen_is_left() {
    let scene = Scene::start("create table items (id int primary key, name text)").await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items values (1, 'a'); alter table items replica identity nothing").await;
    let full = || async { if identity(&scene, "items").await == "f" { Ok(()) } else { Err("not full") } };
    eventually("a full identity", DEADLINE, full).await;
    scene.execute("update items set name = 'b'").await;
    scene.execute("alter table items replica identity default; update items set name = 'c'").await;
    wait_for(&scene, "t", "degraded", "old rows hold the replica identity's columns only").await;
    assert_eq!(identity(&scene, "items").await, "d");
    let expected = json!([
        ["INSERT", null, {"id": 1, "name": "a"}],
        ["UPDATE", {"id": 1, "name": "a"}, {"id": 1, "name": "b"}],
        ["UPDATE", {"id": 1}, {"id": 1, "name": "c"}],
    ]);
    let mut changes = scene.changes("/t", 3).await;
    changes.sort_by_key(|change| change[2]["name"].to_string());
    assert_eq!(json!(changes), expected);
    scene.execute("alter table items replica identity full").await;
    wait_for(&scene, "t", "active", "").await;
}

#[tokio::test]
async fn new_partitions_get_a_full_identity_and_all_of_them_get_their_own_back() {
    let ddl = "create table parts (id int primary key, name text) partition by range (id);
               create table low partition of parts for values from (0) to (10);
               create table loose (name text not null, id int primary key);
               create unique index by_name on loose (name); alter table loose replica identity using index by_name";
    let scene = Scene::start(ddl).await;
    scene.create("t", "parts", "/t", json!({})).await;
    scene.execute("create table high partition of parts for values from (10) to (20) partition by range (id)").await;
    scene.execute("create table highest partition of high for values from (15) to (20)").await;
    scene.execute("alter table parts attach partition loose for values from (20) to (30)").await;
    let all = "select count(*) from pg_class where relreplident = 'f'
               and relname in ('parts', 'low', 'high', 'highest', 'loose')";
    scene.wait_for_count(all, 5).await;
    wait_for(&scene, "t", "active", "").await;
    scene.execute("alter table parts detach partition low; drop table highest").await;
    scene.succeed("delete_event_trigger", json!({"name": "t"})).await;
    let found = "select string_agg(relname || ' ' || relreplident::text, ', ' order by relname) from pg_class
                 where relname in ('parts', 'low', 'high', 'loose')";
    assert_eq!(scene.value::<String>(found, &[]).await, "high d, loose i, low d, parts d");
}

#[tokio::test]
async fn a_partitioned_table_without_a_key_needs_the_event_trigger_and_then_no_write_fails() {
    let ddl = "create table parts (id int, name text) partition by range (id);
               create table low partition of parts for values from (0) to (10)";
    let scene = Scene::start(ddl).await;
    let args = trigger("t", "parts", &scene.receiver.url("/t"), json!({}));
    let (status, body) = scene.call("create_event_trigger", args).await;
    assert_eq!((status, &body["code"]), (400, &json!("invalid-configuration")), "{body}");
    let statement = body["internal"][0]["statements"][0].as_str().expect("a statement").to_owned();
    scene.execute("create table early partition of parts for values from (10) to (20)").await;
    // The statement of the refusal is all that is missing. The application is an ordinary role.
    let role = format!("app_{}", scene.database.name());
    scene.execute(&format!("create role {role}; grant create, usage on schema public to {role}")).await;
    scene.execute(&format!("alter table parts owner to {role}; {statement}")).await;
    scene.create("t", "parts", "/t", json!({})).await;
    let callable = "select has_function_privilege($1, 'walhook.keep_identity()', 'execute')";
    assert!(!scene.value::<bool>(callable, &[&role]).await, "it runs for roles that may not call it");
    scene.execute(&format!("set role {role}")).await;
    for (make, id) in [
        ("create table later partition of parts for values from (20) to (30)", 20),
        (
            "create table apart (name text, id int);
          alter table parts attach partition apart for values from (30) to (40)",
            30,
        ),
        (
            "create table deep partition of parts for values from (40) to (60) partition by range (id);
          create table deepest partition of deep for values from (40) to (50)",
            40,
        ),
        (
            "create table nothing (id int, name text); alter table nothing replica identity nothing;
          alter table parts attach partition nothing for values from (60) to (70)",
            60,
        ),
    ] {
        // In the very transaction, too.
        scene
            .execute(&format!(
                "begin; {make}; insert into parts values ({id}, 'a'); update parts set name = 'b' where id = {id};
                 commit;
                 update parts set name = 'c' where id = {id}; delete from parts where id = {id}"
            ))
            .await;
    }
    scene.execute("reset role").await;
    let changes = scene.changes("/t", 16).await;
    assert_eq!(changes.len(), 16);
    for id in [20, 30, 40, 60] {
        assert!(changes.contains(&json!(["DELETE", {"id": id, "name": "c"}, null])), "{id}: {changes:?}");
    }
    scene
        .execute(&format!("drop event trigger walhook_keep_identity; drop owned by {role} cascade; drop role {role}"))
        .await;
}

#[tokio::test]
async fn what_leaves_the_wal_or_the_publication_is_said() {
    let ddl =
        "create table items (id int primary key); create table parts (id int primary key) partition by range (id);
               create table low partition of parts for values from (0) to (10);
               create table roof (id int primary key) partition by range (id)";
    let scene = Scene::start(ddl).await;
    scene.create("items", "items", "/items", json!({})).await;
    scene.create("parts", "parts", "/parts", json!({})).await;
    // Postgres itself keeps a published table from becoming unlogged, but not a partition of one.
    assert!(scene.sql.batch_execute("alter table items set unlogged").await.is_err());
    scene.execute("alter table low set unlogged").await;
    wait_for(&scene, "parts", "degraded", "ALTER TABLE \"public\".\"low\" SET LOGGED").await;
    scene.execute("alter table low set logged").await;
    wait_for(&scene, "parts", "active", "").await;
    let publication = scene.database.publication();
    scene.execute(&format!("alter publication {publication} drop table items")).await;
    wait_for(&scene, "items", "degraded", "is not in publication").await;
    replace(&scene, "items", "items", "/items", json!({})).await;
    wait_for(&scene, "items", "active", "").await;
    scene.execute("insert into items values (1)").await;
    scene.arrivals("/items", 1).await;
    scene.execute("alter table roof attach partition items for values from (0) to (10)").await;
    wait_for(&scene, "items", "degraded", "it is a partition").await;
}

/// Nothing tells its rows apart any more, so their order is kept by sending one event after the other.
#[tokio::test]
async fn rows_stay_in_order_after_their_key_was_renamed() {
    let scene = Scene::start("create table items (id int primary key, n int)").await;
    scene.create("t", "items", "/t", json!({"retry_conf": {"num_retries": 9, "interval_sec": 1}})).await;
    scene.execute("insert into items values (1, 0)").await;
    wait_for(&scene, "t", "active", "").await;
    scene.arrivals("/t", 1).await;
    scene.execute("alter table items rename id to key").await;
    scene.receiver.on("/t", Script::first(1, Answer::status(500)));
    scene.execute("update items set n = 1; update items set n = 2; update items set n = 3").await;
    wait_for(&scene, "t", "degraded", "the columns that told rows apart (\"id\") are gone").await;
    let arrived = |from: usize, changes: &[Value]| -> Vec<Value> {
        changes[from..].iter().map(|change| change[2]["n"].clone()).collect()
    };
    assert_eq!(json!(arrived(1, &scene.changes("/t", 5).await)), json!([1, 1, 2, 3]));
    // Where the WAL tells the key's columns they tell rows apart, whatever they are called.
    scene.execute("alter table items replica identity default").await;
    wait_for(&scene, "t", "degraded", "old rows hold the replica identity's columns only").await;
    let gone = "select count(*) from walhook.trigger_status where reason like '%told rows apart%'";
    scene.wait_for_count(gone, 0).await;
    scene.execute("alter table items replica identity full").await;
    replace(&scene, "t", "items", "/t", json!({})).await;
    wait_for(&scene, "t", "active", "").await;
    scene.execute("update items set n = 4").await;
    assert_eq!(json!(arrived(5, &scene.changes("/t", 6).await)), json!([4]));
    let rows = "select count(distinct row_hash) from walhook.event";
    assert_eq!(scene.count(rows).await, 2, "by its key, and meanwhile by nothing");
}
