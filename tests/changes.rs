//! What counts as a change: TRUNCATE, updates that change nothing, rows that came by replication; and what is told of
//! the transaction.

mod support;

use serde_json::{Value, json};
use support::scene::{Scene, change, trigger};

const ITEMS: &str = "create table items (id int primary key, name text)";

/// Makes a trigger that watches nothing but TRUNCATE.
async fn create_for_truncate(scene: &Scene, name: &str, table: &str, path: &str) {
    let changes = json!({"truncate": {}, "insert": null, "update": null, "delete": null});
    scene.create(name, table, path, changes).await;
}

/// Trigger and operation of each event in the log, once capture passed everything that was written before. Events of
/// one change come in the order of the triggers' names.
async fn logged(scene: &Scene) -> Vec<String> {
    scene.settle().await;
    let log = "select array(select trigger || ' ' || operation from walhook.events where trigger <> 'marker'
                            order by commit_lsn, ordinal, trigger)";
    scene.value(log, &[]).await
}

#[tokio::test]
async fn a_truncate_is_one_event_for_each_table_and_trigger_that_asks() {
    let tables = "create table a (id int primary key); create table b (id int primary key, a int references a);
                  create table c (id int primary key); create table unwatched (id int primary key)";
    let scene = Scene::start(tables).await;
    for (name, table) in [("a1", "a"), ("a2", "a"), ("b", "b"), ("c", "c")] {
        create_for_truncate(&scene, name, table, "/t").await;
    }
    scene.create("rows", "a", "/rows", json!({})).await;
    scene.execute("insert into a values (1), (2); insert into b values (1, 1)").await;
    // b goes with a; the table that nobody watches is in the same statement.
    scene.execute("truncate a, unwatched restart identity cascade").await;
    scene.execute("begin; truncate c; rollback; truncate c, a, b").await;
    let mut found = logged(&scene).await;
    assert_eq!(found[..2], ["rows INSERT", "rows INSERT"]);
    // In which order a statement's tables come is Postgres' matter.
    found[2..5].sort_unstable();
    found[5..].sort_unstable();
    let (first, second) = (["a1 TRUNCATE", "a2 TRUNCATE", "b TRUNCATE"], ["c TRUNCATE"]);
    assert_eq!(found[2..], [&first[..], &first[..], &second[..]].concat());
    let requests = scene.arrivals("/t", 7).await;
    assert!(requests.iter().all(|request| change(request) == json!(["TRUNCATE", null, null])));
    assert_eq!(scene.count("select count(distinct (commit_lsn, ordinal, trigger_id)) from walhook.event").await, 10);
}

#[tokio::test]
async fn a_truncate_of_a_partitioned_table_is_one_event_of_the_root() {
    let tables = "create table parts (id int primary key) partition by range (id);
                  create table low partition of parts for values from (0) to (100) partition by range (id);
                  create table lowest partition of low for values from (0) to (10);
                  create table high partition of parts for values from (100) to (200)";
    let scene = Scene::start(tables).await;
    scene.create("t", "parts", "/t", json!({"truncate": {}})).await;
    scene.execute("insert into parts values (1), (150); truncate parts; insert into parts values (2)").await;
    // Postgres does not publish this one: the partition goes by the root's name, and the root was not emptied.
    scene.execute("truncate low").await;
    assert_eq!(logged(&scene).await, ["t INSERT", "t INSERT", "t TRUNCATE", "t INSERT"]);
    let truncated = &scene.arrivals("/t", 4).await[..];
    let table = json!({"schema": "public", "name": "parts"});
    assert!(truncated.iter().all(|request| request.json()["table"] == table));
}

#[tokio::test]
async fn a_publication_without_truncate_is_refused_with_the_cure() {
    let scene = Scene::start(ITEMS).await;
    let publication = scene.database.publication();
    scene.execute(&format!("alter publication {publication} set (publish = 'insert, update, delete')")).await;
    scene.create("rows", "items", "/rows", json!({})).await;
    let args = trigger("t", "items", &scene.receiver.url("/t"), json!({"truncate": {}}));
    let (status, body) = scene.call("create_event_trigger", args.clone()).await;
    assert_eq!((status, &body["code"]), (400, &json!("invalid-configuration")));
    let statement = body["internal"][0]["statements"][0].as_str().expect("a statement").to_owned();
    scene.execute(&statement).await;
    scene.succeed("create_event_trigger", args).await;
    scene.execute("truncate items").await;
    assert_eq!(scene.changes("/t", 1).await, [json!(["TRUNCATE", null, null])]);
}

#[tokio::test]
async fn an_update_that_changes_nothing_fires_on_request_only() {
    let scene = Scene::start(ITEMS).await;
    scene.create("plain", "items", "/plain", json!({})).await;
    let on_name = json!({"columns": ["name"]});
    scene.create("always", "items", "/always", json!({"fire_on_unchanged": true, "update": on_name})).await;
    scene.execute("insert into items values (1, 'a'); update items set name = 'a'; update items set id = 2").await;
    let expected = ["always INSERT", "plain INSERT", "always UPDATE", "always UPDATE", "plain UPDATE"];
    assert_eq!(logged(&scene).await, expected);
}

#[tokio::test]
async fn rows_that_came_by_replication_fire_for_triggers_that_ask() {
    let scene = Scene::start(ITEMS).await;
    scene.create("here", "items", "/here", json!({"truncate": {}})).await;
    let ask = json!({"trigger_on_replication": true, "truncate": {}});
    scene.create("everywhere", "items", "/everywhere", ask).await;
    let origin = format!("'upstream_{}'", scene.database.name());
    scene.execute(&format!("select pg_replication_origin_create({origin})")).await;
    let apply = scene.database.connect().await;
    let changes = "insert into public.items values (1, 'a'); update public.items set name = 'b'; truncate public.items";
    apply
        .batch_execute(&format!("select pg_replication_origin_session_setup({origin}); begin; {changes}; commit"))
        .await
        .expect("what an apply worker does");
    scene.execute("insert into items values (2, 'c')").await;
    let expected =
        ["everywhere INSERT", "everywhere UPDATE", "everywhere TRUNCATE", "everywhere INSERT", "here INSERT"];
    assert_eq!(logged(&scene).await, expected);
}

#[tokio::test]
async fn the_transaction_is_told_on_request() {
    let scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({"transaction": true, "enable_manual": true})).await;
    scene.create("plain", "items", "/plain", json!({})).await;
    scene.execute("begin; insert into items values (1, 'a'), (2, 'b')").await;
    let xid: i64 = scene.value("select pg_current_xact_id()::text::bigint", &[]).await;
    scene.execute("delete from items where id = 1; commit").await;
    let requests = scene.arrivals("/t", 3).await;
    let mut told: Vec<Value> = requests.iter().map(|request| request.json()["event"]["transaction"].clone()).collect();
    told.sort_by_key(|transaction| transaction["ordinal"].as_u64());
    let commit = "select distinct commit_lsn::text, to_char(committed_at at time zone 'UTC', \
                  'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') from walhook.event";
    let commit = scene.sql.query_one(commit, &[]).await.expect("one commit");
    let (lsn, time): (&str, &str) = (commit.get(0), commit.get(1));
    let expected = |ordinal: u64| json!({"xid": xid, "commit_lsn": lsn, "ordinal": ordinal, "committed_at": time});
    assert_eq!(told, [expected(1), expected(2), expected(3)]);
    let plain = scene.arrivals("/plain", 3).await;
    assert!(plain.iter().all(|request| request.json()["event"].get("transaction").is_none()));
    scene.succeed("invoke_event_trigger", json!({"name": "t", "payload": 1})).await;
    let manual = &scene.arrivals("/t", 4).await[3];
    assert_eq!(manual.json()["event"].get("transaction"), Some(&Value::Null));
}
