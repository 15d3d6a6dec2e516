//! How column values arrive: under settings of the writer that must not matter, nulls, and values that are not in the
//! WAL. `rendering` has all types.

mod support;

use serde_json::{Value, json};
use support::cluster::TestDatabase;
use support::scene::{Scene, change};

/// Column types that arrive as numbers, booleans or JSON, with values as `row_to_json` prints them.
const NATIVE: &[(&str, &str)] = &[
    ("smallint", "-32768"),
    ("integer", "2147483647"),
    ("bigint", "50755254975729665"),
    ("real", "1.5"),
    ("double precision", "0.1"),
    ("double precision", "1e300"),
    ("numeric", "0.10000000000000000000001"),
    ("numeric(20,4)", "12345.6000"),
    ("numeric", "NaN"),
    ("double precision", "-Infinity"),
    ("real", "NaN"),
    ("boolean", "true"),
    ("boolean", "false"),
    ("json", "{\"b\": [1, null, {\"c\": \"ü\"}], \"a\": 1, \"a\": 2}"),
    ("json", "\"text\""),
    ("jsonb", "{\"z\": 1, \"a\": [true, \"\\u00e9\\n\"]}"),
    ("jsonb", "null"),
    ("timestamp", "2018-09-05 07:14:21.601701"),
    ("timestamp", "infinity"),
    ("timestamptz", "2018-09-05 07:14:21.6+05:30"),
    ("timestamptz", "0044-03-15 12:00:00 BC"),
    ("date", "2006-02-02"),
    ("text", ""),
    ("text", "a\"b\\c\n\t\r\u{1}\u{7f}é/🦀\u{2028}"),
    ("varchar(10)", "  spaces  "),
    ("char(5)", "ab"),
    ("\"char\"", "x"),
    ("name", "a name"),
    ("uuid", "37b7f91a-b3a5-4b85-be59-e5920d72f6aa"),
    ("bytea", "\\xdeadbeef00"),
    ("time", "07:14:21.5"),
    ("timetz", "07:14:21+02"),
    ("interval", "1 year -2 days 03:04:05.6"),
    ("inet", "192.168.0.1/24"),
    ("cidr", "10.0.0.0/8"),
    ("macaddr", "08:00:2b:01:02:03"),
    ("bit(3)", "101"),
    ("varbit", "10"),
    ("money", "12.34"),
    ("int4range", "[1,5)"),
    ("point", "(1,2)"),
    ("xml", "<a>1</a>"),
    ("tsvector", "'a':1 'b':2"),
    ("mood", "so so"),
    ("pg_lsn", "16/B374D848"),
];

fn ddl(columns: &[(&str, &str)]) -> String {
    let listed: Vec<String> = columns.iter().enumerate().map(|(index, (kind, _))| format!("c{index} {kind}")).collect();
    format!(
        "create type mood as enum ('so so');
             create table wide (id int primary key, {})",
        listed.join(", ")
    )
}

fn insert(columns: &[(&str, &str)]) -> String {
    let values: Vec<String> = columns.iter().map(|(_, value)| format!("'{}'", value.replace('\'', "''"))).collect();
    format!("insert into wide values (1, {})", values.join(", "))
}

/// The text of `data.new` in the only request's body.
fn new_row_text(body: &[u8]) -> &str {
    let text = std::str::from_utf8(body).expect("UTF-8");
    let start = text.find("\"new\":").expect("a new row") + "\"new\":".len();
    let end = text.find("},\"session_variables\"").expect("what follows the rows");
    &text[start..end]
}

#[tokio::test]
async fn values_print_as_row_to_json_prints_them() {
    let scene = Scene::start(&ddl(NATIVE)).await;
    scene.create("t", "wide", "/t", json!({})).await;
    // The writer's own settings must not matter.
    scene
        .execute(
            "set timezone = 'Asia/Tokyo'; set datestyle = 'German'; set intervalstyle = 'iso_8601';
                   set bytea_output = 'escape'; set extra_float_digits = 0",
        )
        .await;
    scene.execute(&insert(NATIVE).replace("'12.34'", "12.34::money")).await;
    let request = scene.arrivals("/t", 1).await.remove(0);
    scene
        .execute(
            "reset datestyle; reset intervalstyle; reset bytea_output; reset extra_float_digits; set timezone = 'UTC'",
        )
        .await;
    let expected: String = scene.value("select row_to_json(wide)::text from wide", &[]).await;
    assert_eq!(new_row_text(&request.body), expected);
}

#[tokio::test]
async fn null_is_null_in_every_type() {
    let scene = Scene::start(&ddl(NATIVE)).await;
    scene.create("t", "wide", "/t", json!({})).await;
    scene.execute("insert into wide (id) values (1)").await;
    let new = scene.changes("/t", 1).await[0][2].clone();
    let fields = new.as_object().expect("a row");
    assert_eq!(fields.len(), NATIVE.len() + 1);
    assert!(fields.iter().all(|(name, value)| name == "id" || value.is_null()), "{new}");
}

const BIG: &str = "create table big (id int primary key, n int, large text, small text);
                   alter table big alter large set storage external";
const FILL: &str = "insert into big values (1, 0, repeat('abcdefgh', 5000), 's')";

#[tokio::test]
async fn a_big_value_that_an_update_does_not_touch_comes_from_the_old_row() {
    let scene = Scene::start(BIG).await;
    scene.create("t", "big", "/t", json!({})).await;
    scene.create("large", "big", "/large", json!({"insert": null, "update": {"columns": ["large"]}})).await;
    scene.execute(&format!("{FILL}; update big set n = 1; update big set large = null; delete from big")).await;
    let large = "abcdefgh".repeat(5000);
    let row = |n: i64, large: Value| json!({"id": 1, "n": n, "large": large, "small": "s"});
    let mut changes = scene.changes("/t", 4).await;
    changes.sort_by_key(|change| (change[0].to_string(), change[1]["n"].as_i64()));
    assert_eq!(changes[0], json!(["DELETE", row(1, Value::Null), null]));
    assert_eq!(changes[1], json!(["INSERT", null, row(0, json!(large))]));
    assert_eq!(changes[2], json!(["UPDATE", row(0, json!(large)), row(1, json!(large))]));
    assert_eq!(changes[3], json!(["UPDATE", row(1, json!(large)), row(1, Value::Null)]));
    // It did not change in the first update, so a trigger on it alone fires for the second one and the delete.
    let mut operations: Vec<Value> = scene.changes("/large", 2).await.iter().map(|change| change[0].clone()).collect();
    operations.sort_by_key(Value::to_string);
    assert_eq!(operations, ["DELETE", "UPDATE"]);
    assert_eq!(scene.count("select count(*) from walhook.event").await, 6);
    assert!(scene.arrivals("/t", 4).await.iter().all(|request| request.header("walhook-missing-columns").is_none()));
}

#[tokio::test]
async fn a_big_value_that_is_not_in_the_wal_is_left_out_and_named() {
    let scene = Scene::start_with(BIG, |start| start.with(&["--replica-identity", "keep"])).await;
    scene.create("t", "big", "/t", json!({})).await;
    scene.create("small", "big", "/small", json!({"update": {"columns": "*", "payload": ["id", "small"]}})).await;
    scene.execute(&format!("{FILL}; update big set n = 1")).await;
    let requests = scene.arrivals("/t", 2).await;
    let update = requests.iter().find(|request| change(request)[0] == "UPDATE").expect("the update");
    assert_eq!(change(update)[2], json!({"id": 1, "n": 1, "small": "s"}));
    assert_eq!(update.header("walhook-missing-columns"), Some("large"));
    let missing = "select missing_columns from walhook.events where operation = 'UPDATE' and trigger = $1";
    assert_eq!(scene.value::<Vec<String>>(missing, &[&"t"]).await, ["large"]);
    // Who did not ask for it misses nothing.
    let requests = scene.arrivals("/small", 2).await;
    assert!(requests.iter().all(|request| request.header("walhook-missing-columns").is_none()));
    assert_eq!(scene.value::<Option<Vec<String>>>(missing, &[&"small"]).await, None);
}

#[tokio::test]
async fn a_row_of_many_megabytes_arrives_whole() {
    let scene = Scene::start(BIG).await;
    scene.create("t", "big", "/t", json!({})).await;
    scene.execute("insert into big select i, i, repeat(chr(96 + i), 8000000), 'é' from generate_series(1, 3) i").await;
    for request in scene.arrivals("/t", 3).await {
        let new = &change(&request)[2];
        let id = u8::try_from(new["id"].as_u64().expect("an id")).expect("a small one");
        let large = new["large"].as_str().expect("a text");
        assert!(large.len() == 8_000_000 && large.bytes().all(|byte| byte == 96 + id), "row {id} is damaged");
    }
}

/// A database that was made without an encoding takes any bytes; its server would send none that are no UTF-8.
#[tokio::test]
async fn bytes_that_are_no_characters_stop_nothing() {
    let database = TestDatabase::create_with("encoding 'SQL_ASCII' locale 'C' template template0").await;
    let scene = Scene::in_database(database, "create table items (id int primary key, name text)", |start| start).await;
    scene.create("t", "items", "/t", json!({})).await;
    scene
        .execute(
            r"begin; select pg_logical_emit_message(true, E'\377', 'anybody''s');
              insert into items values (1, E'a\377b'), (2, E'\303\274'); commit",
        )
        .await;
    let mut changes = scene.changes("/t", 2).await;
    changes.sort_by_key(|change| change[2]["id"].as_i64());
    let expected = json!([["INSERT", null, {"id": 1, "name": "a\u{fffd}b"}], ["INSERT", null, {"id": 2, "name": "ü"}]]);
    assert_eq!(json!(changes), expected);
}
