//! What writers say inside their transactions: context for the events that follow, and events of their own.

mod support;

use serde_json::{Value, json};
use support::cluster::TestDatabase;
use support::receiver::{Answer, Script};
use support::scene::{Scene, change};
use support::walhook::Start;

const ITEMS: &str = "create table items (id int primary key, name text)";

/// Makes a trigger on custom events of a type.
async fn create_for_type(scene: &Scene, name: &str, event_type: &str, path: &str, changes: Value) {
    let mut args = json!({"name": name, "type": event_type, "webhook": scene.receiver.url(path)});
    for (key, value) in changes.as_object().expect("an object of changes") {
        args[key] = value.clone();
    }
    assert_eq!(scene.succeed("create_event_trigger", args).await, json!({"message": "success"}));
}

/// Operation, row or data, and context of each event in the log, once capture passed what was written before.
async fn logged(scene: &Scene) -> Vec<String> {
    create_for_type(scene, "marker", "marker", "/marker", json!({})).await;
    scene.execute("select walhook.emit('marker')").await;
    scene.wait_for_count("select count(*) from walhook.events where trigger = 'marker'", 1).await;
    let log = "select array(select concat_ws(' ', trigger, operation, coalesce(new, old), session_variables)
                            from walhook.events where trigger <> 'marker' order by seq)";
    scene.value(log, &[]).await
}

#[tokio::test]
async fn a_context_is_for_the_later_events_of_its_transaction() {
    let scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({})).await;
    let context = |user: u32| format!(r#"select walhook.set_context('{{"x-hasura-user-id":"{user}"}}');"#);
    let (first, second, third) = (context(1), context(2), context(3));
    let insert = |id: u32| format!("insert into items values ({id}, null);");
    scene
        .execute(&format!(
            "begin; {} {first} {} {} {second} {} savepoint a; {third} {} rollback to a; {}
             select walhook.set_context(null); {} commit; {}",
            insert(1),
            insert(2),
            insert(3),
            insert(4),
            insert(5),
            insert(6),
            insert(7),
            insert(8)
        ))
        .await;
    // By itself it is a transaction, and nothing of it comes after.
    scene.execute(&first).await;
    scene.execute(&insert(9)).await;
    let row = |id: u32, user: Option<u32>| {
        let context = user.map(|user| format!(r#" {{"x-hasura-user-id": "{user}"}}"#)).unwrap_or_default();
        format!(r#"t INSERT {{"id":{id},"name":null}}{context}"#)
    };
    let expected = [(1, None), (2, Some(1)), (3, Some(1)), (4, Some(2)), (6, Some(2)), (7, None), (8, None), (9, None)];
    assert_eq!(logged(&scene).await, expected.map(|(id, user)| row(id, user)));
    for request in scene.arrivals("/t", expected.len()).await {
        let event = &request.json()["event"];
        let user = expected.iter().find(|(id, _)| event["data"]["new"]["id"] == *id).expect("a known row").1;
        let context = user.map_or(Value::Null, |user| json!({"x-hasura-user-id": user.to_string()}));
        assert_eq!(event["session_variables"], context);
    }
}

#[tokio::test]
async fn a_context_stays_with_its_events_in_a_big_transaction_a_crash_and_a_redelivery() {
    const ROWS: usize = 3_000;
    let scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({})).await;
    scene
        .execute(&format!(
            "begin; select walhook.set_context('{{\"a\":[1]}}');
             insert into items select i from generate_series(1, {ROWS}) i; commit"
        ))
        .await;
    let with_context = r#"select count(*) from walhook.events where session_variables::text = '{"a": [1]}'"#;
    scene.wait_for_count(with_context, ROWS as i64).await;
    let scene = scene.crash_and_restart().await;
    let requests = scene.arrivals("/t", ROWS).await;
    assert!(requests.iter().all(|request| request.json()["event"]["session_variables"] == json!({"a": [1]})));
    scene.wait_for_count("select count(distinct event_id) from walhook.attempt", ROWS as i64).await;
    let count = scene.receiver.count();
    scene.succeed("redeliver_event", json!({"event_id": requests[0].json()["id"]})).await;
    let again = &scene.arrivals("/t", count + 1).await[count];
    assert_eq!(again.json()["event"], requests[0].json()["event"]);
}

#[tokio::test]
async fn a_custom_event_comes_in_commit_order_with_the_rows_and_goes_with_its_transaction() {
    let scene = Scene::start(ITEMS).await;
    scene.create("rows", "items", "/rows", json!({})).await;
    create_for_type(&scene, "paid", "order.paid", "/paid", json!({"transaction": true})).await;
    create_for_type(&scene, "also", "order.paid", "/also", json!({})).await;
    scene
        .execute(
            "begin; select walhook.emit('order.paid', '{\"n\": 12345678901234567890.50}'); insert into items values (1);
             savepoint a; select walhook.emit('order.paid', '\"taken back\"'); rollback to a;
             select walhook.set_context('{\"x\": \"y\"}'), walhook.emit(type => 'order.paid'),
                    walhook.emit('nobody.listens', '1');
             insert into items values (2); commit;
             begin; select walhook.emit('order.paid', '\"rolled back\"'); rollback",
        )
        .await;
    let mut found = logged(&scene).await;
    // Triggers of one event come in the order of their ids.
    found[..2].sort_unstable();
    found[3..5].sort_unstable();
    let expected = [
        r#"also CUSTOM {"n": 12345678901234567890.50}"#,
        r#"paid CUSTOM {"n": 12345678901234567890.50}"#,
        r#"rows INSERT {"id":1,"name":null}"#,
        r#"also CUSTOM null {"x": "y"}"#,
        r#"paid CUSTOM null {"x": "y"}"#,
        r#"rows INSERT {"id":2,"name":null} {"x": "y"}"#,
    ];
    assert_eq!(found, expected);
    let mut requests = scene.arrivals("/paid", 2).await;
    requests.sort_by_key(|request| request.json()["event"]["transaction"]["ordinal"].as_u64());
    let first = requests[0].json();
    assert_eq!((&first["table"], &first["type"]), (&Value::Null, &json!("order.paid")));
    assert_eq!(first["trigger"]["name"], "paid");
    assert!(String::from_utf8_lossy(&requests[0].body).contains(r#""new":{"n": 12345678901234567890.50}"#));
    assert_eq!(change(&requests[1]), json!(["CUSTOM", null, null]));
    let kinds = "select array(select concat_ws(' ', trigger, event_type, table_name) from walhook.status order by 1)";
    let kinds: Vec<String> = scene.value(kinds, &[]).await;
    assert_eq!(kinds, ["also order.paid", "marker marker", "paid order.paid", "rows items"]);
}

#[tokio::test]
async fn what_writers_say_is_utf8_whatever_the_databases_encoding_is() {
    let database = TestDatabase::create_with("encoding 'LATIN1' locale 'C' template template0").await;
    let scene = Scene::in_database(database, "create table items (name text)", |start| start).await;
    scene.create("rows", "items", "/rows", json!({})).await;
    create_for_type(&scene, "fee", "gebühr", "/fee", json!({})).await;
    scene
        .execute(
            "begin; select walhook.set_context('{\"müller\": \"ÿ\"}'), walhook.emit('gebühr', '[\"ä\"]');
             insert into items values ('ö'); commit",
        )
        .await;
    for (path, new) in [("/fee", json!(["ä"])), ("/rows", json!({"name": "ö"}))] {
        let request = &scene.arrivals(path, 1).await[0].json()["event"];
        assert_eq!((&request["data"]["new"], &request["session_variables"]), (&new, &json!({"müller": "ÿ"})));
    }
}

/// Whoever writes messages by hand can write any character, and what cannot be stored would stop capture.
#[tokio::test]
async fn what_writers_say_in_characters_that_the_database_has_not_arrives_all_the_same() {
    let database = TestDatabase::create_with("encoding 'LATIN1' locale 'C' template template0").await;
    let scene = Scene::in_database(database, "create table items (name text)", |start| start).await;
    scene.create("rows", "items", "/rows", json!({})).await;
    create_for_type(&scene, "fee", "gebühr", "/fee", json!({})).await;
    let said = [json!({"context": {"price": "5 €"}}), json!({"event": {"type": "gebühr", "data": ["€", "\u{1f600}"]}})];
    for content in said.map(|content| content.to_string()) {
        let bytes: String = content.bytes().map(|byte| format!("{byte:02x}")).collect();
        scene
            .execute(&format!(
                "begin; select pg_logical_emit_message(true, 'walhook', '\\x{bytes}'::bytea);
                 insert into items values ('ö'); commit"
            ))
            .await;
    }
    // Rows of a table without a key are in no order among each other.
    let rows = scene.arrivals("/rows", 2).await;
    let contexts = rows.iter().map(|row| row.json()["event"]["session_variables"].clone());
    assert_eq!(contexts.filter(|context| !context.is_null()).collect::<Vec<_>>(), [json!({"price": "5 €"})]);
    assert_eq!(scene.arrivals("/fee", 1).await[0].json()["event"]["data"]["new"], json!(["€", "\u{1f600}"]));
}

/// They are recorded with what else ended, and nothing would be recorded any more.
#[tokio::test]
async fn answers_in_characters_that_the_database_has_not_are_recorded_without_them() {
    let database = TestDatabase::create_with("encoding 'LATIN1' locale 'C' template template0").await;
    let scene = Scene::in_database(database, "create table items (name text)", |start| start).await;
    scene.create("rows", "items", "/rows", json!({})).await;
    scene.receiver.on("/rows", Script::always(Answer::status(200).body("ok – \u{2019}ä\u{1f600}")));
    scene.execute("insert into items values ('a')").await;
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 1).await;
    let response: String = scene.value("select response from walhook.attempt", &[]).await;
    assert_eq!(response, "ok ? ???");
}

#[tokio::test]
async fn a_trigger_on_custom_events_is_made_replaced_invoked_and_deleted_like_any_other() {
    let scene = Scene::start(ITEMS).await;
    create_for_type(&scene, "t", "a", "/t", json!({"enable_manual": true, "retry_conf": {"num_retries": 1}})).await;
    scene.create("rows", "items", "/rows", json!({})).await;
    let url = scene.receiver.url("/t");
    let refused = [
        (
            json!({"name": "t", "type": "a", "webhook": url}),
            "already-exists",
            "Event trigger with name \"t\" already exists",
        ),
        (
            json!({"name": "u", "type": "a", "webhook": url, "replace": true}),
            "not-exists",
            "event trigger \"u\" does not exist",
        ),
        (
            json!({"name": "t", "type": "b", "webhook": url, "replace": true}),
            "not-supported",
            "cannot replace table or schema for trigger",
        ),
        (
            json!({"name": "rows", "type": "a", "webhook": url, "replace": true}),
            "not-supported",
            "cannot replace table or schema for trigger",
        ),
        (
            json!({"name": "t", "table": "items", "insert": {"columns": "*"}, "webhook": url, "replace": true}),
            "not-supported",
            "cannot replace table or schema for trigger",
        ),
        (
            json!({"name": "v", "type": "a", "webhook_from_env": "NOT_SET"}),
            "invalid-configuration",
            "Inconsistent object: in event type \"a\": in event trigger \"v\": environment variable 'NOT_SET' not set",
        ),
    ];
    for (args, code, text) in refused {
        let (status, body) = scene.call("create_event_trigger", args.clone()).await;
        assert_eq!((status, &body["code"], &body["error"]), (400, &json!(code), &json!(text)), "{args}");
    }
    scene.succeed("invoke_event_trigger", json!({"name": "t", "payload": {"by": "hand"}})).await;
    let manual = &scene.arrivals("/t", 1).await[0];
    assert_eq!(change(manual), json!(["MANUAL", null, {"by": "hand"}]));
    assert_eq!((&manual.json()["table"], &manual.json()["type"]), (&Value::Null, &json!("a")));
    create_for_type(&scene, "t", "a", "/other", json!({"replace": true})).await;
    scene.execute("select walhook.emit('a', '1')").await;
    assert_eq!(scene.changes("/other", 1).await, [json!(["CUSTOM", null, 1])]);
    scene.succeed("delete_event_trigger", json!({"name": "t"})).await;
    scene.execute("select walhook.emit('a', '2')").await;
    assert_eq!(logged(&scene).await.len(), 2, "nothing after the deletion");
}

#[tokio::test]
async fn roles_of_the_application_may_speak_and_nothing_else() {
    let scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({})).await;
    create_for_type(&scene, "c", "a", "/c", json!({})).await;
    let role = format!("app_{}", scene.database.name());
    scene.execute(&format!("create role {role}; grant insert on items to {role}")).await;
    scene
        .execute(&format!(
            "begin; set local role {role}; select walhook.set_context('{{\"by\": 1}}'), walhook.emit('a', '1');
             insert into items values (1); commit"
        ))
        .await;
    assert_eq!(scene.arrivals("/c", 1).await[0].json()["event"]["session_variables"], json!({"by": 1}));
    assert_eq!(scene.arrivals("/t", 1).await[0].json()["event"]["session_variables"], json!({"by": 1}));
    let open = "select count(*) from pg_class c where relnamespace = 'walhook'::regnamespace
                and case relkind when 'S' then has_sequence_privilege($1, c.oid, 'usage, select, update')
                    when 'i' then false when 'I' then false
                    else has_table_privilege($1, c.oid, 'select, insert, update, delete, truncate') end";
    assert_eq!(scene.value::<i64>(open, &[&role]).await, 0);
    let callable = "select array(select proname::text from pg_proc where pronamespace = 'walhook'::regnamespace
                                 and has_function_privilege($1, oid, 'execute') order by 1)";
    assert_eq!(scene.value::<Vec<String>>(callable, &[&role]).await, ["emit", "set_context"]);
    scene.execute(&format!("drop owned by {role}; drop role {role}")).await;
}

#[tokio::test]
async fn the_functions_refuse_what_capture_would() {
    let scene = Scene::start(ITEMS).await;
    for (call, message) in [
        ("walhook.emit('')", "walhook.emit: the type must have 1 to 255 bytes"),
        ("walhook.emit(null, '1')", "walhook.emit: the type must have 1 to 255 bytes"),
        ("walhook.emit(repeat('ü', 128))", "walhook.emit: the type must have 1 to 255 bytes"),
        ("walhook.set_context('[1]')", "walhook.set_context: the context must be a JSON object, not array"),
        ("walhook.set_context(jsonb_build_object('a', repeat('x', 8200)))", "longer than 8192 bytes"),
    ] {
        let error = scene.sql.batch_execute(&format!("select {call}")).await.expect_err(call);
        let error = error.as_db_error().expect("Postgres' own");
        assert!(error.message().contains(message), "{call}: {error}");
        assert_eq!(error.code().code(), "22023");
    }
    let longest = "select walhook.emit(repeat('ü', 127) || 'x'),
                          walhook.set_context(jsonb_build_object('a', repeat('x', 8192 - 9)))";
    create_for_type(&scene, "t", &format!("{}x", "ü".repeat(127)), "/t", json!({})).await;
    scene.execute(longest).await;
    scene.arrivals("/t", 1).await;
    assert!(!scene.walhook.log().contains("was ignored"), "{}", scene.walhook.log());
}

#[tokio::test]
async fn messages_that_are_not_walhooks_or_make_no_sense_are_ignored() {
    let scene = Scene::start_with(ITEMS, |start: Start| start.env("WALHOOK_LOG", "debug")).await;
    scene.create("t", "items", "/t", json!({})).await;
    create_for_type(&scene, "c", "a", "/c", json!({})).await;
    let emit = |data: u32| format!(r#"{{"event": {{"type": "a", "data": {data}}}}}"#);
    let context = r#"{"context": {"never": "seen"}}"#;
    for content in [emit(1).as_str(), context, "\\x00ff"] {
        for (transactional, prefix) in [(false, "walhook"), (true, "walhook2"), (true, ""), (true, "Walhook")] {
            let bytea = if content.starts_with('\\') { "::bytea" } else { "" };
            scene
                .execute(&format!(
                    "begin; select pg_logical_emit_message({transactional}, '{prefix}', '{content}'{bytea});
                     insert into items values ((select count(*) from items)); commit"
                ))
                .await;
        }
    }
    let malformed = ["", "secret", "{}", "[]", "null", r#"{"context": "secret"}"#, r#"{"event": {"type": "secret"}}"#];
    let malformed = malformed.map(|content| format!("select pg_logical_emit_message(true, 'walhook', '{content}')"));
    let bytes = "select pg_logical_emit_message(true, 'walhook', '\\x00ff'::bytea)";
    let deep = "select pg_logical_emit_message(true, 'walhook', '{\"context\": {\"a\": ' || repeat('[', 1000000))";
    scene
        .execute(&format!(
            "begin; select walhook.set_context('{{\"b\": 1}}'); {}; {bytes}; {deep};
             select pg_logical_emit_message(true, 'walhook', '{}'); insert into items values (100); commit",
            malformed.join(";"),
            emit(2),
        ))
        .await;
    let log = logged(&scene).await;
    let rows: Vec<&String> = log.iter().filter(|line| line.starts_with("t INSERT")).collect();
    assert_eq!(rows.len(), 13);
    assert!(rows[..12].iter().all(|row| row.ends_with("\"name\":null}")), "{rows:?}");
    // One that makes no sense takes the earlier context away no more than anything else does.
    assert_eq!(log[12..], [r#"c CUSTOM 2 {"b": 1}"#, r#"t INSERT {"id":100,"name":null} {"b": 1}"#]);
    let told = scene.walhook.log();
    assert_eq!(told.matches("was ignored").count(), 1, "told once in a while: {told}");
    assert!(!told.contains("secret"), "{told}");
}
