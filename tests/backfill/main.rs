//! `backfill_event_trigger` and `walhook backfill`: existing rows come once, marked, and never over newer state.

mod meanwhile;
#[path = "../support/mod.rs"]
mod support;

use std::process::Stdio;

use serde_json::{Value, json};
use support::scene::{DEADLINE, Scene, trigger};
use support::wait::eventually;

const ITEMS: &str = "create table items (id int primary key, n int not null default 0, padding text)";
/// Rows of a chunk, and rows that are looked at for one where there is a condition.
const ROWS: i64 = 1000;
const ROWS_LOOKED_AT: i64 = 10_000;

async fn backfill(scene: &Scene, args: Value) -> String {
    let answer = scene.succeed("backfill_event_trigger", args).await;
    answer["backfill_id"].as_str().unwrap_or_else(|| panic!("no id: {answer}")).to_owned()
}

/// State, rows looked at, rows sent and rows superseded.
async fn status(scene: &Scene, id: &str) -> (String, i64, i64, i64) {
    let sql = "select state, looked_at, sent, superseded from walhook.backfills where id = $1::text::uuid";
    let row = scene.sql.query_one(sql, &[&id]).await.expect("the backfill");
    (row.get(0), row.get(1), row.get(2), row.get(3))
}

/// Waits for a backfill's end; gives the rows that it sent.
async fn done(scene: &Scene, id: &str) -> i64 {
    let over = || async {
        let found = status(scene, id).await;
        if ["waiting", "running"].contains(&found.0.as_str()) { Err(found) } else { Ok(found) }
    };
    let (state, looked_at, sent, superseded) = eventually("the backfill's end", DEADLINE * 3, over).await;
    let error: Option<String> =
        scene.value("select error from walhook.backfills where id = $1::text::uuid", &[&id]).await;
    assert_eq!((state.as_str(), &error), ("done", &None), "{}", scene.walhook.log());
    assert!(sent + superseded <= looked_at);
    sent
}

#[tokio::test]
async fn existing_rows_come_once_and_marked_whatever_the_size_of_the_table() {
    let scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({"transaction": true})).await;
    assert_eq!(done(&scene, &backfill(&scene, json!({"name": "t"})).await).await, 0, "an empty table");
    let mut filled = 0;
    for rows in [1, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 500] {
        scene.execute(&format!("insert into items select i, i from generate_series({filled} + 1, {rows}) i")).await;
        filled = filled.max(rows);
        let id = backfill(&scene, json!({"name": "t", "source": "default"})).await;
        assert_eq!(done(&scene, &id).await, rows);
        let same = "select count(*) from items i join walhook.event e on e.new = row_to_json(i)::text
                    where e.backfill_id = $1::text::uuid and e.operation = 'INSERT' and e.old is null";
        assert_eq!(scene.value::<i64>(same, &[&id]).await, rows);
        let chunks = "select count(distinct commit_lsn) from walhook.event where backfill_id = $1::text::uuid";
        assert_eq!(scene.value::<i64>(chunks, &[&id]).await, (rows + ROWS - 1) / ROWS);
    }
    assert_eq!(scene.count("select count(*) - count(distinct id) from walhook.event").await, 0);
    let ordered = "select count(*) from (select seq, lag(commit_lsn) over w > commit_lsn or (lag(commit_lsn) over w \
                   = commit_lsn and lag(ordinal) over w >= ordinal) as back from walhook.event window w as \
                   (order by seq)) s where back";
    assert_eq!(scene.count(ordered).await, 0, "commit position and ordinal give one order");

    let all = scene.count("select count(*) from walhook.event").await as usize;
    let mut marked = 0;
    for request in scene.arrivals("/t", all).await {
        let event = &request.json()["event"];
        let mark = request.header("walhook-backfill");
        assert_eq!(event.get("backfill").and_then(Value::as_str), mark);
        assert_eq!((&event["op"], &event["data"]["old"]), (&json!("INSERT"), &Value::Null));
        assert!(event["transaction"]["ordinal"].as_u64() > Some(0));
        marked += usize::from(mark.is_some());
    }
    assert_eq!(marked, all - filled as usize, "and the rows that were inserted just now are not");
}

/// Types of keys, with texts of three values in no order.
const KEYS: [(&str, [&str; 3]); 18] = [
    ("bigint", ["-5", "9223372036854775807", "12"]),
    ("numeric", ["NaN", "1.50", "-0.001"]),
    ("double precision", ["Infinity", "0.1", "-1e300"]),
    ("text", ["it's \"q\" \\", "", "ünï"]),
    ("text collate \"C\"", ["b", "B", "ä"]),
    ("varchar(10)", ["b", "B", "a b"]),
    ("char(5)", ["b", "B", "ab"]),
    ("\"char\"", ["x", "a", "b"]),
    ("name", ["x", "A", "b"]),
    (
        "uuid",
        [
            "ffffffff-0000-0000-0000-000000000000",
            "00000000-0000-0000-0000-000000000001",
            "80000000-0000-0000-0000-000000000001",
        ],
    ),
    ("timestamptz", ["2020-01-01 00:00:00.000001+00", "infinity", "0044-03-15 12:00:00+00 BC"]),
    ("interval", ["1 mon -2 days", "00:00:00.5", "-3 years"]),
    ("bytea", ["\\x00ff", "\\x", "\\x5c"]),
    ("inet", ["10.0.0.1", "10.0.0.0/8", "::1"]),
    ("boolean", ["t", "f", "t"]),
    ("int[]", ["{1,2}", "{}", "{1,NULL}"]),
    ("mood", ["sad", "glad", "so so"]),
    ("pair", ["(1,a)", "(1,\"b \"\"c\")", "(,)"]),
];

#[tokio::test]
async fn rows_are_read_in_chunks_by_keys_of_any_type() {
    let types = "create type mood as enum ('sad', 'so so', 'glad'); create type pair as (a int, b text)";
    let scene = Scene::start(types).await;
    for (number, (key_type, values)) in KEYS.iter().enumerate() {
        // More than half of a chunk's bytes: a chunk has one or two of them.
        let rows = values.map(|value| format!("('{}')", value.replace('\'', "''"))).join(", ");
        let (table, path) = (format!("keys{number}"), format!("/{number}"));
        scene
            .execute(&format!(
                "create table {table} (\"Key\" {key_type} primary key, padding text default repeat('x', 700000));
                 insert into {table} values {rows} on conflict do nothing"
            ))
            .await;
        scene.create(&table, &table, &path, json!({"insert": {"columns": "*", "payload": ["Key"]}})).await;
        let id = backfill(&scene, json!({"name": table})).await;
        let expected = scene.count(&format!("select count(*) from {table}")).await;
        assert_eq!(done(&scene, &id).await, expected, "{key_type}");
        let same = format!(
            "select count(distinct e.id) from {table} i join walhook.event e
             on e.new = replace(row_to_json(row(i.\"Key\"))::text, '\"f1\":', '\"Key\":')
             where e.backfill_id = '{id}'"
        );
        assert_eq!(scene.count(&same).await, expected, "{key_type}");
        let chunks = format!("select count(distinct commit_lsn) from walhook.event where backfill_id = '{id}'");
        assert_eq!(scene.count(&chunks).await, (expected + 1) / 2, "{key_type}");
    }
}

#[tokio::test]
async fn chunks_end_in_the_middle_of_a_composite_keys_first_column() {
    let scene = Scene::start(
        "create table items (b int, tenant text collate \"C\", note text, a int not null, primary key (tenant, b));
         insert into items select i, t, null, i % 3
         from generate_series(1, 1300) i, unnest(array['b', 'B', 'ä', 'a''b']) t;
         create table others (id int not null, code text not null, unique (code, id));
         insert into others select i, (i % 2)::text from generate_series(1, 2100) i",
    )
    .await;
    for (table, rows, key) in [("items", 5200, "{tenant,b}"), ("others", 2100, "{code,id}")] {
        scene.create(table, table, &format!("/{table}"), json!({})).await;
        let id = backfill(&scene, json!({"name": table})).await;
        assert_eq!(done(&scene, &id).await, rows);
        let same = format!(
            "select count(distinct i.ctid) from {table} i join walhook.event e on e.new = row_to_json(i)::text
             where e.backfill_id = '{id}'"
        );
        assert_eq!(scene.count(&same).await, rows);
        let found = format!("select key_columns::text from walhook.backfills where id = '{id}'");
        assert_eq!(scene.value::<String>(&found, &[]).await, key);
    }
}

#[tokio::test]
async fn rows_look_exactly_as_in_the_stream_and_columns_are_those_of_the_trigger() {
    let scene = Scene::start(
        "create type pair as (a int, b text); create domain positive as int check (value > 0);
         create table items (id int primary key, name text, numbers int[], parts pair[], small positive, doc jsonb,
                             price numeric, seen timestamptz, span interval, raw bytea, yes bool, code char(5),
                             net inet, r int4range, d double precision, twice int generated always as (id * 2) stored,
                             \"Quoted \"\"name\" date, gone int);
         alter table items drop column gone",
    )
    .await;
    scene.create("all", "items", "/all", json!({})).await;
    let only = json!({"columns": ["id"], "payload": ["name", "id"]});
    scene.create("updates", "items", "/updates", json!({"insert": null, "delete": null, "update": only})).await;
    let truncates = json!({"insert": null, "delete": null, "update": null, "truncate": {}});
    scene.create("truncates", "items", "/truncates", truncates).await;
    scene
        .execute(
            "insert into items values (1, 'it''s', '{1,null}', '{\"(1,\\\"x y\\\")\"}', 3, '{\"a\": [1.50]}', 1.50,
                 now(), '1 mon 3 days 04:05:06.7', '\\x00ff', true, 'ab', '10.0.0.1', '[1,5)', 0.1, default,
                 'infinity');
             insert into items (id) values (2)",
        )
        .await;
    scene.wait_for_count("select count(*) from walhook.event", 2).await;
    for name in ["all", "updates", "truncates"] {
        assert_eq!(done(&scene, &backfill(&scene, json!({"name": name})).await).await, 2);
    }
    let texts = "select array(select new from walhook.events where trigger = $1 and backfill_id is not null = $2
                              order by seq)";
    let streamed: Vec<String> = scene
        .value(
            "select array(select e.new from walhook.event e where e.backfill_id is null \
                                             order by e.seq)",
            &[],
        )
        .await;
    let texts = texts.replace("new from walhook.events", "new::text from walhook.events");
    assert_eq!(scene.value::<Vec<String>>(&texts, &[&"all", &true]).await, streamed);
    assert_eq!(scene.value::<Vec<String>>(&texts, &[&"truncates", &true]).await, streamed);
    let chosen = [r#"{"id":1,"name":"it's"}"#, r#"{"id":2,"name":null}"#];
    assert_eq!(scene.value::<Vec<String>>(&texts, &[&"updates", &true]).await, chosen);
    assert_eq!(scene.changes("/updates", 2).await.len(), 2);
}

#[tokio::test]
async fn partitions_are_read_through_their_root_and_children_are_not_their_parents_rows() {
    let scene = Scene::start(
        "create table sales (region text, id int, primary key (region, id)) partition by list (region);
         create table sales_a partition of sales for values in ('a');
         create table sales_rest partition of sales default partition by range (id);
         create table sales_rest_1 partition of sales_rest for values from (0) to (500);
         create table sales_rest_2 partition of sales_rest default;
         insert into sales select r, i from generate_series(1, 600) i, unnest(array['a', 'b', 'c']) r;
         create table parent (id int primary key); create table child (primary key (id)) inherits (parent);
         insert into parent values (1), (2); insert into child values (3)",
    )
    .await;
    scene.create("sales", "sales", "/sales", json!({})).await;
    scene.create("parent", "parent", "/parent", json!({})).await;
    assert_eq!(done(&scene, &backfill(&scene, json!({"name": "sales"})).await).await, 1800);
    let rows = "select count(distinct new) from walhook.event where table_name = 'sales'";
    assert_eq!(scene.count(rows).await, 1800);
    assert_eq!(done(&scene, &backfill(&scene, json!({"name": "parent"})).await).await, 2);
}

#[tokio::test]
async fn a_condition_chooses_the_rows() {
    let scene = Scene::start(ITEMS).await;
    scene.execute(&format!("insert into items select i, i from generate_series(1, {ROWS_LOOKED_AT} * 2 + 50) i")).await;
    scene.create("t", "items", "/t", json!({})).await;
    let all = ROWS_LOOKED_AT * 2 + 50;
    for (condition, expected, chunks) in [
        ("id % 5000 = 1 -- a comment", 5, 3),
        ("items.n > 100 and items.n <= 2600 or false", 2500, 5),
        ("id in (select i.n from public.items i where i.n < 3)", 2, 3),
        ("null", 0, 3),
    ] {
        let id = backfill(&scene, json!({"name": "t", "where": condition})).await;
        assert_eq!(done(&scene, &id).await, expected, "{condition}");
        let (_, looked_at, _, _) = status(&scene, &id).await;
        assert_eq!(looked_at, all);
        let sent = format!(
            "select count(*) from items where id in (select (new::json ->> 'id')::int from walhook.event \
                            where backfill_id = '{id}') and (({condition}\n))"
        );
        assert_eq!(scene.count(&sent).await, expected);
        let marks = format!("select count(distinct commit_lsn) from walhook.event where backfill_id = '{id}'");
        assert!(scene.count(&marks).await <= chunks);
    }
    // It is known only while rows are read that this one fails; the value it fails on is not told.
    let id = backfill(&scene, json!({"name": "t", "where": "('secret' || n)::int > 0"})).await;
    let failed = || async {
        let found = status(&scene, &id).await;
        if found.0 == "failed" { Ok(()) } else { Err(found) }
    };
    eventually("the failure", DEADLINE, failed).await;
    let found = scene.succeed("get_backfills", json!({"name": "t"})).await;
    assert_eq!(found["backfills"][0]["id"], json!(id));
    let error = found["backfills"][0]["error"].as_str().expect("a reason").to_owned();
    assert!(error.contains("22P02") && !error.contains("secret"), "{error}");
    assert!(!scene.walhook.log().contains("secret"));
    // The next one goes on.
    done(&scene, &backfill(&scene, json!({"name": "t", "where": "id = 1"})).await).await;
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_its_reason_and_nothing_is_made() {
    let scene = Scene::start(&format!(
        "{ITEMS}; create table bare (id int); create table loose (id int unique);
         create table later (id int primary key deferrable initially deferred);
         create function twice(int) returns int language sql as 'select $1 * 2'"
    ))
    .await;
    for table in ["items", "bare", "loose", "later"] {
        scene.create(table, table, "/x", json!({})).await;
    }
    let manual = json!({"insert": null, "update": null, "delete": null, "enable_manual": true});
    scene.create("manual", "items", "/x", manual).await;
    let custom = json!({"name": "custom", "type": "a", "webhook": scene.receiver.url("/x")});
    scene.succeed("create_event_trigger", custom).await;
    for (args, code, text) in [
        (json!({"name": "none"}), "not-exists", "event trigger \"none\" does not exist"),
        (json!({"name": "items", "source": "x"}), "not-exists", "source with name \"x\" does not exist"),
        (json!({"name": "bare"}), "not-supported", "has no unique key"),
        (json!({"name": "loose"}), "not-supported", "has no unique key"),
        (json!({"name": "later"}), "not-supported", "has no unique key"),
        (json!({"name": "manual"}), "not-supported", "watches no operation"),
        (json!({"name": "custom"}), "not-supported", "custom events"),
        (json!({"name": "items", "where": "nosuch = 1"}), "validation-failed", "column \"nosuch\" does not exist"),
        (json!({"name": "items", "where": "id"}), "validation-failed", "must be type boolean"),
        (json!({"name": "items", "where": "id = $1"}), "validation-failed", "parameters"),
        (json!({"name": "items", "where": "true); drop table items; --"}), "validation-failed", "syntax error"),
        (
            json!({"name": "items", "where": "true) order by 1; drop table items; select (1"}),
            "validation-failed",
            "multiple commands",
        ),
        (json!({"name": "items", "where": "twice(id) = 1"}), "validation-failed", "need their schema"),
        (json!({"name": "items", "where": "count(*) > 1"}), "validation-failed", "aggregate"),
        (json!({"name": "items", "where": ""}), "", "empty string not allowed"),
    ] {
        let (status, body) = scene.call("backfill_event_trigger", args.clone()).await;
        let told = body["error"].as_str().unwrap_or_default();
        assert_eq!(status, 400, "{args}: {body}");
        assert!(told.contains(text), "{args}: {body}");
        assert!(code.is_empty() || body["code"] == code, "{args}: {body}");
    }
    for id in ["x", "00000000-0000-0000-0000-000000000000"] {
        let (status, body) = scene.call("cancel_backfill", json!({"backfill_id": id})).await;
        assert_eq!((status, &body["code"]), (400, &json!("not-exists")));
    }
    assert_eq!(scene.count("select count(*) from walhook.backfill").await, 0);
    assert_eq!(scene.count("select count(*) from items").await, 0, "still there");
}

#[tokio::test]
async fn it_waits_for_the_tables_writers_and_can_be_cancelled_meanwhile() {
    let scene = Scene::start(&format!("{ITEMS}; create table other (id int)")).await;
    scene.execute("insert into items values (1), (2), (3)").await;
    scene.create("t", "items", "/t", json!({})).await;
    let (writer, bystander) = (scene.database.connect().await, scene.database.connect().await);
    writer.batch_execute("begin; update public.items set n = 7 where id = 2").await.expect("an update");
    bystander.batch_execute("begin; insert into public.other values (1)").await.expect("an insert");
    let first = backfill(&scene, json!({"name": "t"})).await;
    let second = backfill(&scene, json!({"name": "t"})).await;
    let running = format!("select count(*) from walhook.backfills where id = '{first}' and state = 'running'");
    scene.wait_for_count(&running, 1).await;
    assert_eq!(scene.succeed("cancel_backfill", json!({"backfill_id": first})).await, json!({"message": "success"}));
    let running = format!("select count(*) from walhook.backfills where id = '{second}' and state = 'running'");
    scene.wait_for_count(&running, 1).await;
    assert_eq!(scene.count("select count(*) from walhook.event").await, 0);
    writer.batch_execute("commit").await.expect("a commit");
    // Who writes elsewhere is not waited for.
    assert_eq!(done(&scene, &second).await, 3);
    let log = "select array(select concat_ws(' ', operation, new::json ->> 'id', new::json ->> 'n')
                            from walhook.event order by seq)";
    assert_eq!(scene.value::<Vec<String>>(log, &[]).await, ["UPDATE 2 7", "INSERT 1 0", "INSERT 2 7", "INSERT 3 0"]);
    assert_eq!(status(&scene, &first).await, ("cancelled".into(), 0, 0, 0));
    drop(bystander);
}

#[tokio::test]
async fn the_command_asks_waits_and_says_what_was_sent() {
    let scene = Scene::start(ITEMS).await;
    scene.execute("insert into items select i, i from generate_series(1, 1500) i").await;
    scene.create("t", "items", "/t", json!({})).await;
    let run = |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_walhook"));
        command.args(["backfill", "--database-url", scene.database.url()]).args(arguments);
        command.stdin(Stdio::null()).kill_on_drop(true).output()
    };
    let output = run(&["t", "--where", "id > 100"]).await.expect("a run");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.starts_with("done: ") && out.contains("1400 sent"), "{out}\n{err}");
    let output = run(&["t", "--detach"]).await.expect("a run");
    let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert_eq!(done(&scene, &id).await, 1500);
    for (arguments, text) in [
        (["t", "--where", "nosuch = 1"].as_slice(), "column \"nosuch\" does not exist"),
        (&["none"], "event trigger \"none\" does not exist"),
        (&["t", "--source", "none"], "was never captured"),
    ] {
        let output = run(arguments).await.expect("a run");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && err.contains(text), "{err}");
    }
    assert_eq!(scene.count("select count(*) from walhook.backfill").await, 2);
}

#[tokio::test]
async fn arguments_are_hasuras_in_form() {
    let scene = Scene::start(ITEMS).await;
    let args = trigger("t", "items", &scene.receiver.url("/t"), json!({}));
    let made = scene.walhook.post("/v1/metadata", &json!({"type": "pg_create_event_trigger", "args": args})).await;
    assert_eq!(made.0, 200);
    scene.execute("insert into items values (1)").await;
    let call = |kind: &str, args: Value| json!({"type": kind, "args": args});
    let request = call("pg_backfill_event_trigger", json!({"name": "t", "source": "default", "where": "n = 0"}));
    let (status, body) = scene.walhook.post("/v1/metadata", &request).await;
    assert_eq!(status, 200, "{body}");
    done(&scene, body["backfill_id"].as_str().expect("an id")).await;
    let (status, body) = scene.walhook.post("/v1/metadata", &call("pg_get_backfills", json!({}))).await;
    let found = &body["backfills"][0];
    assert_eq!((status, &found["trigger"], &found["where"]), (200, &json!("t"), &json!("n = 0")), "{body}");
    assert_eq!((&found["state"], &found["sent"], &found["error"]), (&json!("done"), &json!(1), &Value::Null));
    assert!(found["ended_at"].as_str().is_some_and(|time| time.ends_with('Z')));
    let (status, body) = scene.walhook.post("/v1/query", &call("backfill_event_trigger", json!({}))).await;
    assert_eq!((status, &body["path"], &body["error"]), (400, &json!("$"), &json!("key \"name\" not found")));
}
