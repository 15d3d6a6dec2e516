//! What creating and deleting triggers does to tables and the publication, and which tables can be watched.

mod support;

use serde_json::{Value, json};
use support::cluster::TestDatabase;
use support::receiver::Receiver;
use support::scene::{DEADLINE, Scene, change, trigger};
use support::walhook::Start;

/// Replica identity of a table, and whether the publication has it.
async fn state(scene: &Scene, table: &str) -> (String, bool) {
    let row = scene
        .sql
        .query_one(
            "select c.relreplident::text, exists (select from pg_publication_rel r where r.prrelid = c.oid)
             from pg_class c where c.oid = $1::text::regclass",
            &[&table],
        )
        .await
        .expect("a table");
    (row.get(0), row.get(1))
}

fn is(identity: &str, published: bool) -> (String, bool) {
    (identity.to_owned(), published)
}

async fn refusal(scene: &Scene, table: Value, changes: Value) -> (String, Vec<String>) {
    let mut args = trigger("t", "", &scene.receiver.url("/t"), changes);
    args["table"] = table;
    let (status, body) = scene.call("create_event_trigger", args).await;
    assert_eq!((status, &body["code"]), (400, &json!("invalid-configuration")), "{body}");
    assert_eq!(scene.count("select count(*) from walhook.trigger").await, 0);
    assert_eq!(scene.count("select count(*) from walhook.trigger_version").await, 0);
    let statements = body["internal"][0]["statements"].as_array().cloned().unwrap_or_default();
    let texts = statements.iter().map(|statement| statement.as_str().expect("a text").to_owned()).collect();
    (body["error"].as_str().expect("a text").to_owned(), texts)
}

#[tokio::test]
async fn every_kind_of_identity_is_given_back() {
    let ddl = "create table none (id int not null); alter table none replica identity nothing;
               create table indexed (id int not null, b text); create unique index by_id on indexed (id);
               alter table indexed replica identity using index by_id;
               create table whole (id int); alter table whole replica identity full;
               create table plain (id int primary key)";
    let scene = Scene::start(ddl).await;
    for (table, before) in [("none", "n"), ("indexed", "i"), ("whole", "f"), ("plain", "d")] {
        assert_eq!(state(&scene, table).await, is(before, false));
        scene.create("one", table, "/t", json!({})).await;
        scene.create("two", table, "/t", json!({})).await;
        assert_eq!(state(&scene, table).await, is("f", true), "{table}");
        scene.succeed("delete_event_trigger", json!({"name": "one"})).await;
        assert_eq!(state(&scene, table).await, is("f", true), "{table}");
        scene.succeed("delete_event_trigger", json!({"name": "two"})).await;
        assert_eq!(state(&scene, table).await, is(before, false), "{table}");
    }
    let index = "select relname::text from pg_class join pg_index on oid = indexrelid where indisreplident";
    assert_eq!(scene.value::<String>(index, &[]).await, "by_id");
}

#[tokio::test]
async fn a_table_dropped_under_its_trigger_does_not_keep_it_from_being_deleted() {
    let scene = Scene::start("create table gone (id int primary key); create table other (id int primary key)").await;
    scene.create("t", "gone", "/t", json!({})).await;
    scene.execute("insert into gone values (1); drop table gone").await;
    scene.arrivals("/t", 1).await;
    scene.succeed("delete_event_trigger", json!({"name": "t"})).await;
    scene.create("t", "other", "/other", json!({})).await;
    scene.execute("insert into other values (1)").await;
    scene.arrivals("/other", 1).await;
}

#[tokio::test]
async fn a_manual_trigger_leaves_the_table_alone() {
    let scene = Scene::start("create table items (id int primary key)").await;
    let none = json!({"insert": null, "update": null, "delete": null, "enable_manual": true});
    scene.create("t", "items", "/t", none).await;
    assert_eq!(state(&scene, "items").await, is("d", false));
}

#[tokio::test]
async fn identities_are_kept_when_told_so_and_tables_without_one_are_refused() {
    let ddl = "create table keyed (id int primary key, name text); create table bare (id int, name text)";
    let scene = Scene::start_with(ddl, |start| start.with(&["--replica-identity", "keep"])).await;
    let (error, statements) = refusal(&scene, json!("bare"), json!({})).await;
    assert!(error.contains("no usable replica identity"), "{error}");
    assert_eq!(statements, ["ALTER TABLE \"public\".\"bare\" REPLICA IDENTITY FULL;"]);
    assert_eq!(state(&scene, "bare").await, is("d", false));
    scene.execute("update bare set name = 'still works'").await;
    scene.create("t", "keyed", "/t", json!({})).await;
    assert_eq!(state(&scene, "keyed").await, is("d", true));
    scene.execute("insert into keyed values (1, 'a'); update keyed set name = 'b'; delete from keyed").await;
    let mut changes = scene.changes("/t", 3).await;
    changes.sort_by_key(|change| change[0].to_string());
    // The WAL holds the key of an old row and nothing else.
    let expected = json!([
        ["DELETE", {"id": 1}, null],
        ["INSERT", null, {"id": 1, "name": "a"}],
        ["UPDATE", {"id": 1}, {"id": 1, "name": "b"}],
    ]);
    assert_eq!(json!(changes), expected);
}

#[tokio::test]
async fn a_table_of_somebody_else_is_refused_with_statements_that_mend_it() {
    let database = TestDatabase::create().await;
    let name = format!("role_{}", database.name());
    let setup = format!(
        "create role {name} login password 'secret' replication; grant create on database {} to {name};
         create table public.theirs (id int primary key)",
        database.name()
    );
    database.execute(&setup).await;
    let (_, host) = database.url().split_once('@').expect("a URL with a password");
    let url = format!("postgresql://{name}:secret@{host}");
    let (slot, publication, sql) = (database.slot(), database.publication(), database.connect().await);
    sql.batch_execute("set search_path = public").await.expect("a setting");
    let arguments = ["serve", "--database-url", &url, "--slot", &slot, "--publication", &publication];
    let walhook = Start::default().with(&arguments).ready().await;
    let scene = Scene { walhook, receiver: Receiver::start().await, sql, database };
    let (error, statements) = refusal(&scene, json!("theirs"), json!({})).await;
    assert!(error.contains("42501"), "{error}");
    assert_eq!(state(&scene, "theirs").await, is("d", false), "half of it was done");
    assert_eq!(scene.count("select count(*) from walhook.watched_table").await, 0);
    // The statements are complete: run by somebody who may, nothing is left that needs a right.
    scene.execute(&statements.join("\n")).await;
    scene.create("t", "theirs", "/t", json!({})).await;
    scene.execute("insert into theirs values (1)").await;
    scene.arrivals("/t", 1).await;
    let Scene { walhook, sql, database, .. } = scene;
    sql.batch_execute(&format!("drop publication {publication}")).await.expect("no publication");
    drop((walhook, database));
    let admin = support::cluster::shared().await.settings("postgres");
    let admin = walhook::postgres::connect(&admin, "test").await.expect("a session");
    admin.batch_execute(&format!("drop role {name}")).await.expect("nothing is left that the role owns");
}

#[tokio::test]
async fn what_is_not_in_the_wal_cannot_be_watched() {
    let ddl = "create table items (id int primary key); create view looks as select * from items;
               create materialized view stored as select * from items; create unlogged table loose (id int primary key);
               create table parts (id int) partition by range (id);
               create table part_one partition of parts for values from (0) to (10);
               create foreign data wrapper elsewhere; create server far foreign data wrapper elsewhere;
               create foreign table remote (id int) server far;
               create table mixed (id int) partition by range (id);
               create foreign table mixed_far partition of mixed for values from (0) to (10) server far;
               create table loosely (id int primary key) partition by range (id);
               create unlogged table loosely_one partition of loosely for values from (0) to (10);
               create sequence numbers; create type pair as (a int, b int);
               create temporary table passing (id int primary key)";
    let scene = Scene::start(ddl).await;
    let temporary: String = scene.value("select pg_my_temp_schema()::regnamespace::text", &[]).await;
    for (table, reason) in [
        (json!("looks"), "it is a view"),
        (json!("stored"), "it is a view"),
        (json!("loose"), "ALTER TABLE \"public\".\"loose\" SET LOGGED;"),
        (json!("part_one"), "it is a partition, and its changes appear as those of public.parts"),
        (json!("remote"), "\"public\".\"remote\" is a foreign table: its rows change in another database"),
        (json!("mixed"), "\"public\".\"mixed_far\" is a foreign table"),
        (json!("mixed_far"), "is a foreign table"),
        (json!("loosely"), "ALTER TABLE \"public\".\"loosely_one\" SET LOGGED;"),
        (json!({"schema": temporary, "name": "passing"}), "it is a temporary table"),
        (json!({"schema": "information_schema", "name": "sql_features"}), "a table of Postgres itself"),
        (json!({"schema": "walhook", "name": "event"}), "it belongs to walhook"),
        (json!({"schema": "pg_catalog", "name": "pg_class"}), "a table of Postgres itself"),
    ] {
        let (error, _) = refusal(&scene, table.clone(), json!({})).await;
        assert!(error.contains(reason), "{table}: {error}");
    }
    for table in ["items", "loose", "parts", "part_one", "mixed", "loosely", "loosely_one"] {
        assert_eq!(state(&scene, table).await, is("d", false), "{table}");
    }
    for name in ["numbers", "pair", "items_pkey", "nothing"] {
        let args = trigger("t", name, &scene.receiver.url("/t"), json!({}));
        let (status, body) = scene.call("create_event_trigger", args).await;
        assert_eq!((status, &body["code"]), (400, &json!("not-exists")), "{body}");
    }
}

#[tokio::test]
async fn children_by_inheritance_are_tables_of_their_own() {
    let ddl = "create table animal (id int primary key, name text);
               create table cat (claws int, primary key (id)) inherits (animal);
               create table tom (fights int) inherits (cat)";
    let scene = Scene::start(ddl).await;
    scene.create("animal", "animal", "/animal", json!({"truncate": {}})).await;
    assert_eq!(state(&scene, "cat").await, is("d", false), "a child is left alone");
    scene.execute("insert into animal values (1, 'a'); insert into cat values (2, 'c', 20)").await;
    scene.execute("insert into tom values (3, 't', 18, 7); update animal set name = upper(name)").await;
    scene.create("tom", "tom", "/tom", json!({"truncate": {}})).await;
    assert_eq!(state(&scene, "tom").await, is("f", true));
    // A column comes to all of them, a statement writes to all of them; each tells its own part.
    scene.execute("alter table animal add age int default 1; update animal set age = 2; truncate animal").await;
    let animal = |name: &str| json!({"id": 1, "name": name});
    let aged = |age: i64| json!({"id": 1, "name": "A", "age": age});
    let tom = |age: i64| json!({"id": 3, "name": "T", "claws": 18, "fights": 7, "age": age});
    let mut expected = vec![
        json!(["animal", "INSERT", null, animal("a")]),
        json!(["animal", "UPDATE", animal("a"), animal("A")]),
        json!(["animal", "UPDATE", aged(1), aged(2)]),
        json!(["tom", "UPDATE", tom(1), tom(2)]),
    ];
    let mut log = scene.log().await;
    // In which order a statement's tables are emptied is Postgres' matter.
    log[4..].sort_by_key(Value::to_string);
    expected.extend(["animal", "tom"].map(|table| json!([table, "TRUNCATE", null, null])));
    assert_eq!(log, expected);
    for name in ["tom", "animal"] {
        scene.succeed("delete_event_trigger", json!({"name": name})).await;
        assert_eq!(state(&scene, name).await, is("d", false));
    }
}

#[tokio::test]
async fn a_partition_counts_from_its_attachment_to_its_detachment() {
    let ddl = "create table parts (id int primary key, name text, n int) partition by range (id);
               create table low partition of parts for values from (0) to (10);
               create table high (n int, gone int, name text, id int primary key); alter table high drop gone";
    let scene = Scene::start(ddl).await;
    scene.create("t", "parts", "/t", json!({})).await;
    scene.execute("insert into high values (1, 'before', 11), (1, 'there', 12)").await;
    scene.execute("alter table parts attach partition high for values from (10) to (20)").await;
    let full = "select count(*) from pg_class where oid = 'high'::regclass and relreplident = 'f'";
    scene.wait_for_count(full, 1).await;
    // Its columns stand in another order than the root's.
    scene.execute("insert into high values (2, 'in', 13); update parts set n = 3 where id = 12").await;
    scene.execute("begin; insert into low values (1, 'l', 1); alter table parts detach partition low").await;
    scene.execute("insert into low values (2, 'out', 1); commit; insert into low values (3, 'out', 1)").await;
    scene.execute("insert into parts values (14, 'p', 4)").await;
    // One that was detached can be watched by itself, and is no part of the root when it comes back.
    scene.create("low", "low", "/low", json!({})).await;
    scene.execute("insert into low values (4, 'own', 1)").await;
    let row = |id: i64, name: &str, n: i64| json!({"id": id, "name": name, "n": n});
    let expected = json!([
        ["parts", "INSERT", null, row(13, "in", 2)],
        ["parts", "UPDATE", row(12, "there", 1), row(12, "there", 3)],
        ["parts", "INSERT", null, row(1, "l", 1)],
        ["parts", "INSERT", null, row(14, "p", 4)],
        ["low", "INSERT", null, row(4, "own", 1)],
    ]);
    let mut log = scene.log().await;
    if support::cluster::version().await < 15 {
        // A stream of Postgres 14 notices a detachment only when the publication changes next.
        log.retain(|event| event[3]["name"] != "out");
    }
    assert_eq!(json!(log), expected);
    scene.succeed("delete_event_trigger", json!({"name": "low"})).await;
    scene.execute("alter table parts attach partition low for values from (0) to (10)").await;
    scene.wait_for_count(&full.replace("high", "low"), 1).await;
    scene.execute("delete from low where id = 4").await;
    assert_eq!(scene.log().await.last(), Some(&json!(["parts", "DELETE", row(4, "own", 1), null])));
}

#[tokio::test]
async fn a_foreign_partition_that_comes_later_is_said_and_the_others_are_delivered() {
    let ddl = "create table parts (id int, name text) partition by range (id);
               create table low partition of parts for values from (0) to (10);
               create foreign data wrapper elsewhere; create server far foreign data wrapper elsewhere";
    let scene = Scene::start(ddl).await;
    let keep = "create event trigger walhook_keep_identity on ddl_command_end
                when tag in ('CREATE TABLE', 'ALTER TABLE') execute function walhook.keep_identity()";
    scene.execute(keep).await;
    scene.create("t", "parts", "/t", json!({})).await;
    scene.execute("create foreign table remote partition of parts for values from (10) to (20) server far").await;
    let said = "select count(*) from walhook.trigger_status where trigger = 't' and status = 'degraded'
                and reason like '%\"public\".\"remote\" is a foreign table%'";
    scene.wait_for_count(said, 1).await;
    scene.execute("insert into parts values (1, 'a'); update parts set name = 'b' where id = 1").await;
    let expected = json!([
        ["parts", "INSERT", null, {"id": 1, "name": "a"}],
        ["parts", "UPDATE", {"id": 1, "name": "a"}, {"id": 1, "name": "b"}],
    ]);
    assert_eq!(json!(scene.log().await), expected);
    scene.execute("alter table parts detach partition remote").await;
    let works = "select count(*) from walhook.trigger_status where trigger = 't' and status = 'active'";
    scene.wait_for_count(works, 1).await;
}

#[tokio::test]
async fn rows_of_partitions_come_under_the_name_of_the_root() {
    let ddl = "create table parts (id int primary key, day date) partition by range (id);
               create table low partition of parts for values from (0) to (10);
               create table high partition of parts for values from (10) to (100) partition by range (id);
               create table highest partition of high for values from (50) to (100)";
    let scene = Scene::start(ddl).await;
    scene.create("t", "parts", "/t", json!({})).await;
    // Also one that is made later, and one that is written directly.
    scene.execute("create table later partition of parts for values from (100) to (200)").await;
    scene.execute("insert into parts values (1, '2006-02-02'), (55, '2006-03-03'), (150, null)").await;
    scene.execute("insert into low values (2, '2006-04-04')").await;
    let requests = scene.arrivals("/t", 4).await;
    let mut ids = Vec::new();
    for request in &requests {
        assert_eq!(request.json()["table"], json!({"schema": "public", "name": "parts"}));
        ids.push(change(request)[2]["id"].as_i64().expect("an id"));
    }
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 55, 150]);
    assert!(requests.iter().any(|request| change(request)[2]["day"] == "2006-02-02"));
    // A row that moves is a delete in one partition and an insert in another: that is how Postgres writes it.
    scene.execute("update low set day = '2007-01-01' where id = 1; delete from parts where id = 55").await;
    scene.execute("update parts set id = 60 where id = 2").await;
    let changes = scene.changes("/t", 8).await;
    let old = json!({"id": 1, "day": "2006-02-02"});
    assert!(changes.contains(&json!(["UPDATE", old, {"id": 1, "day": "2007-01-01"}])), "{changes:?}");
    assert!(changes.contains(&json!(["DELETE", {"id": 55, "day": "2006-03-03"}, null])), "{changes:?}");
    assert!(changes.contains(&json!(["DELETE", {"id": 2, "day": "2006-04-04"}, null])), "{changes:?}");
    assert!(changes.contains(&json!(["INSERT", null, {"id": 60, "day": "2006-04-04"}])), "{changes:?}");
}

#[tokio::test]
async fn names_may_be_mixed_case_quoted_and_of_any_script() {
    let ddl = "create schema \"My Schema\"; create table \"My Schema\".\"Täble \"\"x\"\" 表\" (
               \"Id\" int primary key, \"specialøñámé\" text, \"a\"\"b\\c\" int, \"select\" bool)";
    let scene = Scene::start(ddl).await;
    let table = json!({"schema": "My Schema", "name": "Täble \"x\" 表"});
    let update = json!({"columns": ["specialøñámé", "a\"b\\c"]});
    let mut args = trigger("t", "", &scene.receiver.url("/t"), json!({"update": update}));
    args["table"] = table.clone();
    scene.succeed("create_event_trigger", args).await;
    let quoted = "\"My Schema\".\"Täble \"\"x\"\" 表\"";
    scene
        .execute(&format!(
            "insert into {quoted} values (1, 'ä', 2, true); update {quoted} set \"select\" = false;
                            update {quoted} set \"a\"\"b\\c\" = 3"
        ))
        .await;
    let requests = scene.arrivals("/t", 2).await;
    assert!(requests.iter().all(|request| request.json()["table"] == table));
    let row = |a: i64, select: bool| json!({"Id": 1, "specialøñámé": "ä", "a\"b\\c": a, "select": select});
    let mut changes: Vec<Value> = requests.iter().map(change).collect();
    changes.sort_by_key(|change| change[0].to_string());
    assert_eq!(json!(changes), json!([["INSERT", null, row(2, true)], ["UPDATE", row(2, false), row(3, false)]]));
    scene.succeed("delete_event_trigger", json!({"name": "t"})).await;
    assert_eq!(scene.count("select count(*) from pg_class where relreplident = 'f' and oid > 16384").await, 0);
}

#[tokio::test]
async fn a_publication_for_all_tables_makes_no_events_of_walhooks_own() {
    let database = TestDatabase::create().await;
    let make = "create publication {} for all tables with (publish_via_partition_root = true)";
    database.execute(&make.replace("{}", &database.publication())).await;
    let scene = Scene::in_database(database, "create table items (id int primary key)", |start| start).await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items values (1), (2)").await;
    scene.arrivals("/t", 2).await;
    scene.execute("insert into items values (3)").await;
    scene.arrivals("/t", 3).await;
    scene.wait_for_count("select count(*) from walhook.attempt where verdict = 'delivered'", 3).await;
    assert_eq!(scene.count("select count(*) from walhook.event").await, 3);
    assert_eq!(scene.receiver.wait_for(3, DEADLINE).await.len(), 3);
    // What it writes for itself must not keep it busy either: the log's writes are not answered by more writes.
    scene.succeed("delete_event_trigger", json!({"name": "t"})).await;
}

#[tokio::test]
async fn columns_added_and_tables_renamed_later_are_followed() {
    let scene = Scene::start("create table items (id int primary key)").await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items values (1); alter table items add name text default 'd'").await;
    scene.execute("insert into items values (2, 'x'); alter table items rename to things").await;
    scene.execute("insert into things values (3, 'y')").await;
    let mut found: Vec<Value> = scene
        .arrivals("/t", 3)
        .await
        .iter()
        .map(|request| json!([request.json()["event"]["data"]["new"], request.json()["table"]["name"]]))
        .collect();
    found.sort_by_key(|pair| pair[0]["id"].as_i64());
    let expected = json!([
        [{"id": 1}, "items"], [{"id": 2, "name": "x"}, "items"], [{"id": 3, "name": "y"}, "things"],
    ]);
    assert_eq!(json!(found), expected);
}

/// Capture hears of definitions through the publication; what is published later says nothing of what was before.
#[tokio::test]
async fn a_publication_without_walhooks_own_table_takes_no_definitions() {
    let scene = Scene::start("create table items (id int primary key)").await;
    scene.create("t", "items", "/t", json!({})).await;
    let publication = scene.database.publication();
    scene.execute(&format!("alter publication {publication} set table items")).await;
    let args = trigger("u", "items", &scene.receiver.url("/u"), json!({}));
    let repair = format!("ALTER PUBLICATION \"{publication}\" ADD TABLE walhook.trigger_version;");
    for (kind, args) in
        [("create_event_trigger", args.clone()), ("delete_event_trigger", json!({"name": "t", "source": "default"}))]
    {
        let (status, answer) = scene.call(kind, args).await;
        assert_eq!((status, &answer["code"]), (400, &json!("invalid-configuration")), "{answer}");
        assert!(answer["error"].as_str().is_some_and(|error| error.contains(&repair)), "{answer}");
    }
    scene.execute(&repair).await;
    scene.succeed("create_event_trigger", args).await;
    scene.execute("insert into items values (1)").await;
    scene.arrivals("/u", 1).await;
    scene.arrivals("/t", 1).await;
}
