//! The arguments of `create_event_trigger`: every decoding row of reference/hasura.md 1.3, on both endpoints, and
//! walhook's own keys.

use serde_json::{Value, json};

use super::super::request::{Command, Endpoint};
use super::super::tests::{WRAPPER, decode};
use crate::model::{
    BatchConf, Columns, Definition, HeaderValue as ConfiguredValue, OnDead, Ordering, Subject, TableName, Webhook,
};

/// A valid `create_event_trigger`, with some keys set to other values; `null` is as good as absent.
fn args(changes: Value) -> Value {
    let mut args = json!({ "name": "t", "table": "users", "webhook": "http://a", "insert": { "columns": "*" } });
    for (key, value) in changes.as_object().expect("changes") {
        args[key] = value.clone();
    }
    args
}

fn create(args: Value) -> (Definition, bool) {
    let body = json!({ "type": "create_event_trigger", "args": args });
    match decode(&body, Endpoint::Query) {
        Ok(Command::Create { definition, replace }) => (*definition, replace),
        other => panic!("{body}: {other:?}"),
    }
}

#[test]
fn seed_003_example_decodes() {
    let (definition, replace) = create(json!({
        "name": "sample_trigger",
        "table": { "name": "users", "schema": "public" },
        "webhook": "https://httpbin.org/post",
        "insert": { "columns": "*", "payload": ["username"] },
        "update": { "columns": ["username", "real_name"], "payload": "*" },
        "delete": { "columns": "*" },
        "headers": [
            { "name": "X-Hasura-From-Val", "value": "myvalue" },
            { "name": "X-Hasura-From-Env", "value_from_env": "EVENT_WEBHOOK_HEADER" }
        ],
        "replace": false
    }));
    assert!(!replace);
    assert_eq!(definition.subject, Subject::Table(TableName::new("public", "users")));
    assert_eq!(definition.webhook, Webhook::Url("https://httpbin.org/post".into()));
    let insert = definition.operations.insert.expect("insert");
    assert_eq!((insert.columns, insert.payload), (Columns::All, Columns::Only(vec!["username".into()])));
    let update = definition.operations.update.expect("update");
    assert_eq!(update.columns, Columns::Only(vec!["username".into(), "real_name".into()]));
    assert_eq!(definition.operations.delete.expect("delete").payload, Columns::All);
    assert_eq!(definition.headers[1].value, ConfiguredValue::FromEnv("EVENT_WEBHOOK_HEADER".into()));
    assert_eq!(
        (definition.retry_conf.num_retries, definition.retry_conf.interval_sec, definition.retry_conf.timeout_sec),
        (0, 10, 60)
    );
    assert_eq!((definition.source.as_str(), definition.enable_manual), ("default", false));
}

#[test]
fn other_forms_decode() {
    let (definition, replace) =
        create(args(json!({ "replace": true, "retry_conf": { "interval_sec": 3 }, "insert": null,
        "enable_manual": true, "webhook": null, "webhook_from_env": "HOOK", "source": "default",
        "cleanup_config": { "paused": true }, "unheard_of": [] })));
    assert!(replace && definition.enable_manual);
    assert_eq!(definition.webhook, Webhook::FromEnv("HOOK".into()));
    assert_eq!((definition.retry_conf.num_retries, definition.retry_conf.interval_sec), (0, 3));
    let other = create(args(json!({ "table": { "name": "b" } }))).0;
    assert_eq!(other.subject, Subject::Table(TableName::new("public", "b")));
    assert_eq!(create(args(json!({ "name": "t".repeat(42) }))).0.name.len(), 42);
    for version in [json!(1), json!(2), json!(null)] {
        for name in ["delete_event_trigger", "pg_delete_event_trigger"] {
            let body = json!({ "type": name, "version": version, "args": { "name": "t", "source": "other" } });
            for endpoint in [Endpoint::Query, Endpoint::Metadata] {
                assert!(matches!(decode(&body, endpoint), Ok(Command::Delete { source, .. }) if source == "other"));
            }
        }
    }
}

#[test]
fn what_walhook_adds_to_hasuras_definition_decodes() {
    let plain = create(args(json!({}))).0;
    assert!(!plain.operations.truncate && !plain.fire_on_unchanged && !plain.transaction);
    assert!(!plain.trigger_on_replication, "Hasura's default for Postgres");
    assert_eq!((plain.ordering, plain.on_dead), (Ordering::Row, OnDead::Continue));
    let all = create(args(json!({ "insert": null, "truncate": {}, "fire_on_unchanged": true, "transaction": true,
        "trigger_on_replication": true, "ordering": "trigger", "on_dead": "hold" })))
    .0;
    assert_eq!((all.ordering, all.on_dead), (Ordering::Trigger, OnDead::Hold));
    let stored = serde_json::to_value(&all).expect("JSON");
    assert_eq!(serde_json::from_value::<Definition>(stored).expect("a definition"), all);
    let loose = create(args(json!({ "ordering": "none", "on_dead": "continue" }))).0;
    assert_eq!((loose.ordering, loose.on_dead), (Ordering::None, OnDead::Continue));
    assert!(all.operations.truncate && all.fire_on_unchanged && all.transaction && all.trigger_on_replication);
    let none = create(args(json!({ "truncate": null, "fire_on_unchanged": null, "transaction": false }))).0;
    assert_eq!(none, plain);
    let custom = create(args(json!({ "insert": null, "table": null, "type": "order.paid" }))).0;
    assert_eq!(custom.subject, Subject::Type("order.paid".into()));
    let stored = serde_json::to_value(&custom).expect("JSON");
    assert_eq!((&stored["type"], stored.get("table")), (&json!("order.paid"), None));
    assert_eq!(serde_json::from_value::<Definition>(stored).expect("a definition"), custom);
}

#[test]
fn a_batch_decodes_with_what_holds_where_nothing_is_said() {
    let batch = |value: Value| create(args(json!({ "batch": value }))).0.batch;
    assert_eq!(batch(json!(null)), None);
    let least = BatchConf { max_events: 1, max_wait_ms: 100, max_bytes: 1 << 20 };
    assert_eq!(batch(json!({ "max_events": 1 })), Some(least));
    let all = json!({ "max_events": 1000, "max_wait_ms": 0, "max_bytes": 1024 });
    assert_eq!(batch(all.clone()), Some(BatchConf { max_events: 1000, max_wait_ms: 0, max_bytes: 1024 }));
    let definition = create(args(json!({ "batch": all }))).0;
    let stored = serde_json::to_value(&definition).expect("JSON");
    assert_eq!(stored["batch"], all);
    assert_eq!(serde_json::from_value::<Definition>(stored).expect("a definition"), definition);
}

#[test]
fn a_definition_of_an_earlier_release_reads_with_what_was_then() {
    let stored = r#"{"name":"t","source":"default","table":{"schema":"public","name":"users"},
        "webhook":{"url":"http://a"},"operations":{"insert":{"columns":"*","payload":"*"}},"enable_manual":false,
        "headers":[],"retry_conf":{"num_retries":0,"interval_sec":10,"timeout_sec":60}}"#;
    let definition: Definition = serde_json::from_str(stored).expect("a definition");
    assert_eq!(definition, create(args(json!({}))).0);
}

/// Changes of valid arguments with keys that Hasura does not have, and the path and text of the error.
fn errors_in_own_keys() -> Vec<(Value, &'static str, &'static str)> {
    vec![
        (json!({ "type": "order.paid" }), "$", "only one of table or type should be given"),
        (json!({ "table": null, "type": "" }), "$.type", "empty string not allowed"),
        (json!({ "table": null, "type": 1 }), "$.type", "parsing Text failed, expected String, but encountered Number"),
        (
            json!({ "table": null, "type": "x".repeat(256) }),
            "$.type",
            "an event type has at most 255 bytes and no \\u0000",
        ),
        (
            json!({ "table": null, "type": "order.paid", "truncate": {} }),
            "$",
            "insert/update/delete/truncate belong to a table; leave them out where a type is given",
        ),
        (
            json!({ "truncate": true }),
            "$.truncate",
            "parsing TruncateSpec failed, expected Object, but encountered Boolean",
        ),
        (
            json!({ "fire_on_unchanged": "yes" }),
            "$.fire_on_unchanged",
            "parsing Bool failed, expected Boolean, but encountered String",
        ),
        (
            json!({ "trigger_on_replication": 1 }),
            "$.trigger_on_replication",
            "parsing Bool failed, expected Boolean, but encountered Number",
        ),
        (
            json!({ "transaction": {} }),
            "$.transaction",
            "parsing Bool failed, expected Boolean, but encountered Object",
        ),
        (json!({ "batch": 10 }), "$.batch", "parsing BatchConf failed, expected Object, but encountered Number"),
        (json!({ "batch": { "max_wait_ms": 5 } }), "$.batch", "key \"max_events\" not found"),
        (json!({ "batch": { "max_events": 0 } }), "$.batch.max_events", "from 1 to 1000"),
        (json!({ "batch": { "max_events": 1001 } }), "$.batch.max_events", "from 1 to 1000"),
        (json!({ "batch": { "max_events": 9, "max_wait_ms": 60_001 } }), "$.batch.max_wait_ms", "from 0 to 60000"),
        (json!({ "batch": { "max_events": 9, "max_bytes": 1023 } }), "$.batch.max_bytes", "from 1024 to 2097152"),
        (json!({ "ordering": "table" }), "$.ordering", "expecting row, none or trigger"),
        (json!({ "ordering": 1 }), "$.ordering", "parsing Text failed, expected String, but encountered Number"),
        (json!({ "on_dead": "stop" }), "$.on_dead", "expecting continue or hold"),
        (
            json!({ "ordering": "none", "on_dead": "hold" }),
            "$.on_dead",
            "hold needs an order to keep: leave out \"ordering\": \"none\", or on_dead",
        ),
    ]
}

/// Changes of valid arguments, and the path and text of the error they must give.
fn argument_errors() -> Vec<(Value, &'static str, String)> {
    let reserved = |prefix: &str, place: &str, name: &str| {
        format!("env variables starting with \"{prefix}\" are not allowed in {place}: {name}")
    };
    let name_rule = "only alphanumeric and underscore and hyphens allowed for name";
    let cases = [
        (json!({ "name": 1 }), "$.name", "parsing Text failed, expected String, but encountered Number"),
        (json!({ "name": "" }), "$.name", "empty string not allowed"),
        (json!({ "name": "1a" }), "$", name_rule),
        (json!({ "name": "a.b" }), "$", name_rule),
        (json!({ "name": "_a" }), "$", name_rule),
        (json!({ "name": "ä" }), "$", name_rule),
        (json!({ "name": "a\n" }), "$", name_rule),
        (json!({ "name": "x".repeat(43) }), "$", "event trigger name can be at most 42 characters"),
        (json!({ "table": 1 }), "$.table", "expecting a string/object for QualifiedObject"),
        (json!({ "table": {} }), "$.table", "key \"name\" not found"),
        (
            json!({ "table": { "name": null } }),
            "$.table.name",
            "parsing Text failed, expected String, but encountered Null",
        ),
        (json!({ "source": [] }), "$.source", "parsing Text failed, expected String, but encountered Array"),
        (
            json!({ "insert": null }),
            "$",
            "atleast one amongst insert/update/delete/enable_manual spec must be provided",
        ),
        (
            json!({ "insert": "*" }),
            "$.insert",
            "parsing SubscribeOpSpec failed, expected Object, but encountered String",
        ),
        (json!({ "insert": {} }), "$.insert", "key \"columns\" not found"),
        (json!({ "insert": { "columns": "all" } }), "$.insert.columns", "only * or [] allowed"),
        (json!({ "insert": { "columns": 1 } }), "$.insert.columns", "unexpected columns"),
        (json!({ "insert": { "columns": null } }), "$.insert.columns", "unexpected columns"),
        (
            json!({ "insert": { "columns": ["a", 1] } }),
            "$.insert.columns[1]",
            "parsing Text failed, expected String, but encountered Number",
        ),
        (json!({ "update": { "columns": [] } }), "$", "found empty column specification"),
        (json!({ "delete": { "columns": "*", "payload": [] } }), "$", "found empty payload specification"),
        (
            json!({ "enable_manual": "yes" }),
            "$.enable_manual",
            "parsing Bool failed, expected Boolean, but encountered String",
        ),
        (json!({ "replace": 1 }), "$.replace", "parsing Bool failed, expected Boolean, but encountered Number"),
        (
            json!({ "retry_conf": [] }),
            "$.retry_conf",
            "parsing RetryConf failed, expected Object, but encountered Array",
        ),
        (
            json!({ "retry_conf": { "num_retries": "4" } }),
            "$.retry_conf.num_retries",
            "parsing Int failed, expected Number, but encountered String",
        ),
        (
            json!({ "retry_conf": { "num_retries": -1 } }),
            "$.retry_conf.num_retries",
            "parsing Int failed, value is negative, floating or will cause overflow: -1",
        ),
        (
            json!({ "retry_conf": { "timeout_sec": 1.5 } }),
            "$.retry_conf.timeout_sec",
            "parsing Int failed, value is negative, floating or will cause overflow: 1.5",
        ),
        (json!({ "retry_conf": { "backoff": "random" } }), "$.retry_conf.backoff", "expecting fixed or exponential"),
        (
            json!({ "retry_conf": { "max_interval_sec": 60 } }),
            "$.retry_conf.max_interval_sec",
            "max_interval_sec bounds a growing pause: set \"backoff\": \"exponential\", or leave it out",
        ),
        (json!({ "retry_conf": { "jitter_percent": 101 } }), "$.retry_conf.jitter_percent", "at most 100"),
        (json!({ "max_in_flight": 0 }), "$.max_in_flight", "from 1 to 10000; to send nothing, pause the trigger"),
        (
            json!({ "rate_limit_per_sec": 0.0001 }),
            "$.rate_limit_per_sec",
            "expecting requests a second, from 0.001 to 1000000; to send nothing, pause the trigger",
        ),
        (
            json!({ "rate_limit_per_sec": "5" }),
            "$.rate_limit_per_sec",
            "expecting requests a second, from 0.001 to 1000000; to send nothing, pause the trigger",
        ),
        (
            json!({ "retry_conf": { "give_up_on": [404, 200] } }),
            "$.retry_conf.give_up_on[1]",
            "expecting the status of a failure such as 422, or 3xx, 4xx or 5xx",
        ),
        (json!({ "webhook": null }), "$", "must provide webhook or webhook_from_env"),
        (json!({ "webhook_from_env": "X" }), "$", "only one of webhook or webhook_from_env should be given"),
        (json!({ "webhook": 1 }), "$.webhook", "parsing Text failed, expected String, but encountered Number"),
        (
            json!({ "webhook": "{{X" }),
            "$.webhook",
            "Parsing URL template failed: {{ is not followed by }}; write {{NAME}}",
        ),
        (json!({ "headers": {} }), "$.headers", "parsing [] failed, expected Array, but encountered Object"),
        (json!({ "headers": ["X"] }), "$.headers[0]", "expecting object for headers"),
        (json!({ "headers": [{ "value": "v" }] }), "$.headers[0]", "key \"name\" not found"),
        (json!({ "headers": [{ "name": "X" }] }), "$.headers[0]", "expecting value or value_from_env keys"),
        (
            json!({ "headers": [{ "name": "X", "value": "v", "value_from_env": "V" }] }),
            "$.headers[0]",
            "expecting only one of value or value_from_env keys",
        ),
    ];
    let cases = cases.into_iter().chain(errors_in_own_keys());
    let mut cases: Vec<_> = cases.map(|(changes, path, text)| (changes, path, text.to_owned())).collect();
    for (name, prefix) in [("HASURA_GRAPHQL_X", "HASURA_GRAPHQL_"), ("WALHOOK_X", "WALHOOK_")] {
        let header = json!({ "headers": [{ "name": "X", "value_from_env": name }] });
        cases.push((header, "$.headers[0]", reserved(prefix, "value_from_env", name)));
        let whole = json!({ "webhook": null, "webhook_from_env": name });
        cases.push((whole, "$.webhook_from_env", reserved(prefix, "webhook_from_env", name)));
        let part = json!({ "webhook": format!("http://a/{{{{{name}}}}}") });
        cases.push((part, "$.webhook", reserved(prefix, "templates", name)));
    }
    cases
}

#[test]
fn wrong_arguments_are_reported_as_hasura_does() {
    for (changes, path, text) in argument_errors() {
        let args = args(changes.clone());
        let metadata_path = path.replacen('$', "$.args", 1);
        for (kind, endpoint, path, text) in [
            ("create_event_trigger", Endpoint::Query, path, text.clone()),
            ("pg_create_event_trigger", Endpoint::Query, path, text.clone()),
            ("create_event_trigger", Endpoint::Metadata, metadata_path.as_str(), text.clone()),
            ("pg_create_event_trigger", Endpoint::Metadata, metadata_path.as_str(), format!("{WRAPPER}{text}")),
        ] {
            let error = decode(&json!({ "type": kind, "args": args }), endpoint).expect_err(&changes.to_string());
            assert_eq!(error, ("parse-failed".into(), path.into(), text), "{kind} {endpoint:?} {changes}");
        }
    }
}

#[test]
fn the_first_failing_check_is_reported() {
    // Each of these wrong values hides all that follow.
    let wrong = [
        ("name", json!(1), "$.name"),
        ("table", json!(1), "$.table"),
        ("insert", json!(1), "$.insert"),
        ("retry_conf", json!(1), "$.retry_conf"),
        ("webhook", json!(1), "$.webhook"),
        ("headers", json!(1), "$.headers"),
        ("replace", json!(1), "$.replace"),
    ];
    for first in 0..wrong.len() {
        let mut args = args(json!({ "name": "bad name", "update": { "columns": [] } }));
        for (key, value, _) in &wrong[first..] {
            args[*key] = value.clone();
        }
        let body = json!({ "type": "create_event_trigger", "args": args });
        assert_eq!(decode(&body, Endpoint::Query).expect_err("wrong").1, wrong[first].2, "{body}");
    }
    let texts = |args: Value| {
        decode(&json!({ "type": "create_event_trigger", "args": args }), Endpoint::Query).expect_err("wrong").2
    };
    let mut all = json!({ "name": format!("a b{}", "x".repeat(50)), "table": "t" });
    assert!(texts(all.clone()).starts_with("only alphanumeric"));
    all["name"] = json!("x".repeat(50));
    assert!(texts(all.clone()).starts_with("event trigger name"));
    all["name"] = json!("x");
    assert!(texts(all.clone()).starts_with("atleast one"));
    all["update"] = json!({ "columns": [], "payload": [] });
    assert!(texts(all.clone()).starts_with("must provide webhook"));
    all["webhook"] = json!("http://a");
    assert!(texts(all.clone()).starts_with("found empty column"));
}

#[test]
fn transforms_are_refused_rather_than_ignored() {
    let body = json!({ "type": "create_event_trigger", "args": args(json!({ "request_transform": {} })) });
    let error = decode(&body, Endpoint::Query).expect_err("unsupported");
    assert_eq!((error.0.as_str(), error.1.as_str()), ("not-supported", "$"));
}
