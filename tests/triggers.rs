//! What a trigger watches and when: activation, matching, replacing, deleting, invoking, redelivering.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::receiver::{Answer, Receiver, Script};
use support::scene::{DEADLINE, Scene, trigger};
use support::wait::{eventually, within};
use support::walhook::Walhook;

const ITEMS: &str = "create table items (id int primary key, name text, price numeric, extra json)";

/// What arrives on a path up to and including the insert of a row with this id, which is made now.
async fn changes_up_to_marker(scene: &Scene, path: &str, marker: i64) -> Vec<Value> {
    scene.execute(&format!("insert into items (id) values ({marker})")).await;
    let is_marker = |request: &support::receiver::Request| {
        request.path == path && request.json()["event"]["data"]["new"]["id"] == marker
    };
    scene.receiver.wait_until(DEADLINE, |all| all.iter().any(is_marker)).await;
    // Capture passes changes in order, so everything before the marker is in the log; what is, arrives.
    let all = scene.count("select count(*) from walhook.event").await as usize;
    scene.receiver.wait_for(all, DEADLINE).await;
    let requests = scene.receiver.requests(path).into_iter().filter(|request| !is_marker(request));
    requests.map(|request| support::scene::change(&request)).collect()
}

/// Statements and the changes that are to arrive because of them.
async fn check(changes: Value, statements: &str, expected: Value) {
    let scene = Scene::start(ITEMS).await;
    scene.execute("insert into items values (1, 'a', 1.50, '{\"k\": 1}'), (2, 'b', 2.50, null)").await;
    scene.create("t", "items", "/t", changes).await;
    scene.execute(statements).await;
    // Its own trigger, so that the marker comes whatever the first one watches.
    let only_insert = json!({"update": null, "delete": null});
    scene.create("marker", "items", "/marker", only_insert).await;
    changes_up_to_marker(&scene, "/marker", 99).await;
    let mut found = scene.receiver.requests("/t").iter().map(support::scene::change).collect::<Vec<_>>();
    found.retain(|change| change[2]["id"] != 99);
    found.sort_by_key(Value::to_string);
    let mut expected = expected.as_array().expect("a list").clone();
    expected.sort_by_key(Value::to_string);
    assert_eq!(found, expected, "{statements}");
}

#[tokio::test]
async fn a_change_committed_before_the_answer_is_not_sent_and_later_ones_are() {
    let scene = Scene::start(ITEMS).await;
    scene.execute("insert into items (id) values (1), (2)").await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("update items set name = 'x' where id = 1; delete from items where id = 2").await;
    let changes = changes_up_to_marker(&scene, "/t", 99).await;
    let operations: Vec<&Value> = changes.iter().map(|change| &change[0]).collect();
    assert_eq!(changes.len(), 2, "{changes:?}");
    assert!(operations.contains(&&json!("UPDATE")) && operations.contains(&&json!("DELETE")), "{operations:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_written_after_the_answer_arrive_while_writers_hammer_the_table() {
    let scene = Scene::start("create table hot (id bigint generated always as identity, created int)").await;
    let (created, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut writers = Vec::new();
    for _ in 0..3 {
        let (created, stop, session) = (created.clone(), stop.clone(), scene.database.connect().await);
        writers.push(tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                // Read before the statement is issued: then it must arrive.
                let after = i32::from(created.load(Ordering::SeqCst));
                let insert = format!("insert into public.hot (created) values ({after})");
                session.batch_execute(&insert).await.expect("the application's write");
            }
        }));
    }
    scene.create("t", "hot", "/t", json!({})).await;
    created.store(true, Ordering::SeqCst);
    scene.arrivals("/t", 500).await;
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.expect("a writer");
    }
    let missing = "select count(*) from hot where created = 1 and not exists
                   (select from walhook.event where (new::json ->> 'id')::bigint = hot.id)";
    scene.wait_for_count(missing, 0).await;
    // And what was committed before is not there: events begin at one place and have no gap from there on.
    let holes = "with places as (select (new::json ->> 'id')::bigint as id, commit_lsn from walhook.event)
                 select count(*) from hot, (select min(id) as first from places) s
                 where hot.id > s.first + 10 and not exists (select from places p where p.id = hot.id)";
    assert_eq!(scene.count(holes).await, 0);
}

#[tokio::test]
async fn creating_a_trigger_waits_for_transactions_that_wrote_before() {
    let scene = Scene::start(ITEMS).await;
    let writer = scene.database.connect().await;
    writer.batch_execute("begin; insert into public.items (id) values (1)").await.expect("a write");
    let args = trigger("t", "items", &scene.receiver.url("/t"), json!({}));
    let mut creating = Box::pin(scene.call("create_event_trigger", args));
    let waits = "select count(*) from pg_locks where not granted and relation = 'public.items'::regclass";
    tokio::select! {
        answer = &mut creating => panic!("answered while a writer was open: {answer:?}"),
        () = scene.wait_for_count(waits, 1) => {}
    }
    writer.batch_execute("commit").await.expect("a commit");
    let (status, body) = within("the answer", DEADLINE, creating).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(changes_up_to_marker(&scene, "/t", 99).await, [] as [Value; 0], "it was committed before the answer");
}

#[tokio::test]
async fn a_transaction_that_was_open_elsewhere_counts_from_the_answer_on() {
    let scene = Scene::start(&format!("{ITEMS}; create table other (id int)")).await;
    scene.create("other", "other", "/other", json!({})).await;
    let writer = scene.database.connect().await;
    // It has an id and changes that are decoded before the trigger was made.
    writer.batch_execute("begin; insert into public.other values (1)").await.expect("a write");
    scene.create("t", "items", "/t", json!({})).await;
    writer.batch_execute("insert into public.items (id) values (1); commit").await.expect("a commit");
    let changes = changes_up_to_marker(&scene, "/t", 99).await;
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(scene.arrivals("/other", 1).await.len(), 1);
}

#[tokio::test]
async fn a_second_trigger_on_the_table_takes_all_of_a_transaction_that_commits_after_it() {
    let scene = Scene::start(ITEMS).await;
    scene.create("one", "items", "/one", json!({})).await;
    let writer = scene.database.connect().await;
    writer.batch_execute("begin; insert into public.items (id) values (1)").await.expect("a write");
    scene.create("two", "items", "/two", json!({})).await;
    writer.batch_execute("insert into public.items (id) values (2); commit").await.expect("a commit");
    assert_eq!(scene.changes("/one", 2).await.len(), 2);
    assert_eq!(scene.changes("/two", 2).await.len(), 2);
}

#[tokio::test]
async fn an_update_fires_only_when_a_listed_column_changed() {
    let row = |name: &str, price: f64| json!({"id": 1, "name": name, "price": price, "extra": {"k": 1}});
    let statements = "update items set name = 'b' where id = 1; update items set price = 3.25 where id = 1;
                      update items set price = 3.25, name = 'c' where id = 1";
    check(
        json!({"insert": null, "delete": null, "update": {"columns": ["price"]}}),
        statements,
        json!([["UPDATE", row("b", 1.5), row("b", 3.25)]]),
    )
    .await;
}

#[tokio::test]
async fn an_update_that_changes_nothing_is_silent() {
    let statements = "update items set name = name; update items set extra = extra, price = 1.50 where id = 1;
                      update items set name = null where id = 2; update items set name = null where id = 2";
    let old = json!({"id": 2, "name": "b", "price": 2.5, "extra": null});
    let new = json!({"id": 2, "name": null, "price": 2.5, "extra": null});
    check(json!({}), statements, json!([["UPDATE", old, new]])).await;
}

#[tokio::test]
async fn a_json_column_that_changed_fires() {
    let row = |extra: Value| json!({"id": 1, "name": "a", "price": 1.5, "extra": extra});
    let changes = json!({"update": {"columns": ["extra"]}});
    let statements = "update items set extra = '{\"k\": 2}' where id = 1; update items set name = 'z' where id = 2";
    check(changes, statements, json!([["UPDATE", row(json!({"k": 1})), row(json!({"k": 2}))]])).await;
}

#[tokio::test]
async fn payload_columns_are_chosen_for_each_operation() {
    let changes = json!({
        "insert": {"columns": "*", "payload": ["id", "name"]},
        "update": {"columns": ["name"], "payload": ["price"]},
        "delete": {"columns": "*", "payload": ["id"]},
    });
    let statements = "insert into items values (3, 'c', 9, null); update items set name = 'd' where id = 3;
                      delete from items where id = 3";
    let expected = json!([
        ["INSERT", null, {"id": 3, "name": "c"}],
        ["UPDATE", {"price": 9}, {"price": 9}],
        ["DELETE", {"id": 3}, null],
    ]);
    check(changes, statements, expected).await;
}

#[tokio::test]
async fn operations_that_are_not_asked_for_are_silent() {
    let statements = "insert into items (id, name) values (5, 'e'); update items set id = 6 where id = 5;
                      delete from items where id = 6";
    let row = |id: i64| json!({"id": id, "name": "e", "price": null, "extra": null});
    let all = json!({"columns": "*"});
    let none = json!({"insert": null, "update": null, "delete": null});
    for (key, expected) in [
        ("insert", json!([["INSERT", null, row(5)]])),
        ("update", json!([["UPDATE", row(5), row(6)]])),
        ("delete", json!([["DELETE", row(6), null]])),
    ] {
        let mut changes = none.clone();
        changes[key] = all.clone();
        check(changes, statements, expected).await;
    }
}

#[tokio::test]
async fn a_transaction_that_was_rolled_back_makes_no_event() {
    let statements = "begin; insert into items (id) values (3); rollback; begin; insert into items (id) values (4);
                      savepoint a; insert into items (id) values (5); rollback to a; commit";
    let expected = json!([["INSERT", null, {"id": 4, "name": null, "price": null, "extra": null}]]);
    check(json!({}), statements, expected).await;
}

#[tokio::test]
async fn headers_and_urls_come_from_the_environment() {
    let receiver = Receiver::start().await;
    let (base, whole) = (receiver.url(""), receiver.url("/whole"));
    let environment =
        move |start: support::walhook::Start| start.env("BASE", &base).env("WHOLE", &whole).env("TOKEN", "s3cret");
    let scene = Scene::start_with(ITEMS, environment).await;
    let headers = json!([{"name": "X-Plain", "value": "v"}, {"name": "X-Token", "value_from_env": "TOKEN"},
                         {"name": "X-Both", "value": "Bearer {{TOKEN}}"}]);
    let args = trigger("template", "items", "{{BASE}}/template", json!({"headers": headers}));
    scene.succeed("create_event_trigger", args).await;
    let args = trigger("whole", "items", "", json!({"webhook": null, "webhook_from_env": "WHOLE"}));
    scene.succeed("create_event_trigger", args).await;
    scene.execute("insert into items (id) values (1)").await;
    let requests = receiver.wait_for(2, DEADLINE).await;
    let request = requests.iter().find(|request| request.path == "/template").expect("the template's");
    for (name, value) in [("x-plain", "v"), ("x-token", "s3cret"), ("x-both", "Bearer s3cret")] {
        assert_eq!(request.header(name), Some(value), "{name}");
    }
    assert!(requests.iter().any(|request| request.path == "/whole"));
    assert!(!scene.walhook.log().contains("s3cret"), "a secret in the log");
}

async fn refused(walhook: &Walhook, kind: &str, args: Value) -> (String, String) {
    let (status, body) = walhook.post("/v1/query", &json!({"type": kind, "args": args})).await;
    assert_eq!(status, 400, "{body}");
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    (text("code"), text("error"))
}

#[tokio::test]
async fn a_replacement_takes_the_whole_definition_over() {
    let scene = Scene::start(ITEMS).await;
    let headers = json!([{"name": "X-Old", "value": "1"}]);
    scene.create("t", "items", "/old", json!({"headers": headers, "delete": null})).await;
    let id: String = scene.value("select id::text from walhook.trigger", &[]).await;
    scene.execute("insert into items (id) values (1)").await;
    scene.arrivals("/old", 1).await;
    scene.create("t", "items", "/new", json!({"replace": true, "insert": null})).await;
    scene.execute("insert into items (id) values (2); update items set name = 'x' where id = 2").await;
    scene.execute("delete from items where id = 2").await;
    let requests = scene.arrivals("/new", 2).await;
    let mut operations: Vec<Value> = requests.iter().map(|request| request.json()["event"]["op"].clone()).collect();
    operations.sort_by_key(Value::to_string);
    assert_eq!(operations, ["DELETE", "UPDATE"]);
    assert!(requests.iter().all(|request| request.json()["trigger"]["id"] == id.as_str()));
    assert!(requests.iter().all(|request| request.header("x-old").is_none()));
    assert_eq!(scene.count("select count(*) from walhook.event").await, 3);
    assert_eq!(scene.receiver.requests("/old").len(), 1);
}

#[tokio::test]
async fn pending_events_go_to_the_replacements_url() {
    let scene = Scene::start(ITEMS).await;
    scene.receiver.on("/old", Script::always(Answer::status(503)));
    let retry = json!({"num_retries": 100, "interval_sec": 1});
    scene.create("t", "items", "/old", json!({"retry_conf": retry})).await;
    scene.execute("insert into items (id) values (1)").await;
    let old = scene.arrivals("/old", 1).await;
    scene.create("t", "items", "/new", json!({"replace": true})).await;
    let new = scene.arrivals("/new", 1).await;
    assert_eq!(new[0].json()["id"], old[0].json()["id"]);
}

#[tokio::test]
async fn deleting_ends_what_is_pending_and_gives_the_table_back() {
    let scene = Scene::start(ITEMS).await;
    let state =
        "select relreplident::text || exists (select from pg_publication_tables where tablename = 'items')::text
                 from pg_class where oid = 'items'::regclass";
    assert_eq!(scene.value::<String>(state, &[]).await, "dfalse");
    scene.receiver.on("/t", Script::always(Answer::status(503)));
    let retry = json!({"num_retries": 100, "interval_sec": 1});
    scene.create("t", "items", "/t", json!({"retry_conf": retry})).await;
    scene.create("other", "items", "/other", json!({})).await;
    assert_eq!(scene.value::<String>(state, &[]).await, "ftrue");
    scene.execute("insert into items (id) values (1)").await;
    scene.arrivals("/t", 2).await;
    scene.succeed("delete_event_trigger", json!({"name": "t"})).await;
    assert_eq!(scene.value::<String>(state, &[]).await, "ftrue", "another trigger still watches");
    let before = scene.receiver.requests("/t").len();
    // Retries come every second; the other's events show that time went by and delivery works.
    let later = || async {
        scene.execute("insert into items (id) select max(id) + 1 from items").await;
        let due = scene.count("select count(*) from walhook.deferred").await;
        let seconds: f64 = scene
            .value(
                "select extract(epoch from now() - max(started_at))::float8 from walhook.attempt a
                                        join walhook.trigger t on t.id = a.trigger_id where t.name = 't'",
                &[],
            )
            .await;
        if due == 0 && seconds > 3.0 { Ok(()) } else { Err((due, seconds)) }
    };
    eventually("three intervals to pass", DEADLINE, later).await;
    // One may have been under way.
    assert!(scene.receiver.requests("/t").len() <= before + 1);
    scene.succeed("delete_event_trigger", json!({"name": "other"})).await;
    assert_eq!(scene.value::<String>(state, &[]).await, "dfalse");
    let answer = refused(&scene.walhook, "delete_event_trigger", json!({"name": "t"})).await;
    assert_eq!(answer, ("not-exists".into(), "event trigger \"t\" does not exist".into()));
}

/// The process that deleted it was killed before it told the nodes of it: they learn it seconds later. What fails
/// meanwhile is not sent again and again without a pause.
#[tokio::test]
async fn what_fails_before_its_node_hears_of_the_deletion_is_not_sent_again() {
    let scene = Scene::start(ITEMS).await;
    let failing = Answer::status(500);
    let answers = vec![failing.clone(), failing.clone().after(Duration::from_secs(5)), failing.clone(), failing];
    scene.receiver.on("/t", Script::each(answers));
    scene.create("t", "items", "/t", json!({"retry_conf": {"num_retries": 100, "interval_sec": 1}})).await;
    scene.execute("insert into items (id) values (1)").await;
    scene.arrivals("/t", 2).await;
    scene.execute("update walhook.trigger set deleted_at = now()").await;
    scene.wait_for_count("select count(*) from walhook.attempt", 2).await;
    scene.wait_for_count("select count(*) from walhook.deferred", 0).await;
    assert_eq!(scene.receiver.requests("/t").len(), 2);
}
