//! The frames of requests, and what commands other than `create_event_trigger` take (reference/hasura.md 1.3 and 1.9).

use serde_json::{Value, json};

use super::*;

/// What Hasura puts before an error in the arguments of a command of `/v1/metadata`.
pub(super) const WRAPPER: &str = "Error when parsing command create_event_trigger.\nSee our documentation at \
     https://hasura.io/docs/latest/graphql/core/api-reference/metadata-api/index.html#metadata-apis.\n\
     Internal error message: ";

pub(super) fn decode(body: &Value, endpoint: Endpoint) -> Result<Command, (String, String, String)> {
    request::decode(body.to_string().as_bytes(), endpoint).map_err(|error| fields(&error))
}

/// Code, path and text.
fn fields(error: &ApiError) -> (String, String, String) {
    let (code, path) = error.code_and_path();
    (code.to_owned(), path.to_owned(), error.text().to_owned())
}

#[test]
fn commands_of_walhook_that_name_a_trigger_decode() {
    for endpoint in [Endpoint::Query, Endpoint::Metadata] {
        for prefix in ["", "pg_"] {
            let command =
                |kind: &str| decode(&json!({ "type": format!("{prefix}{kind}"), "args": { "name": "t" } }), endpoint);
            let is_of = |name: &str, source: &str| (name, source) == ("t", "default");
            let paused = command("pause_event_trigger");
            assert!(matches!(&paused, Ok(Command::Pause { name, source }) if is_of(name, source)), "{paused:?}");
            let resumed = command("resume_event_trigger");
            assert!(matches!(&resumed, Ok(Command::Resume { name, source }) if is_of(name, source)), "{resumed:?}");
        }
    }
    let body = json!({ "type": "pause_event_trigger", "args": { "name": "" } });
    assert_eq!(decode(&body, Endpoint::Query).expect_err("no name").2, "empty string not allowed");
}

#[test]
fn a_bulk_redelivery_decodes() {
    let decoded = |args: Value| decode(&json!({ "type": "redeliver_events", "args": args }), Endpoint::Metadata);
    let all = decoded(json!({ "name": "t", "since": "yesterday", "until": null, "status": 503, "dry_run": true }));
    let since = Some("yesterday".into());
    let expected = crate::triggers::DeadFilter { since, until: None, status: Some(503) };
    assert!(matches!(&all, Ok(Command::RedeliverDead { filter, dry_run: true, .. }) if *filter == expected), "{all:?}");
    let least = decoded(json!({ "name": "t" }));
    assert!(matches!(&least, Ok(Command::RedeliverDead { dry_run: false, source, .. }) if source == "default"));
    assert_eq!(decoded(json!({ "name": "t", "status": "503" })).expect_err("a text").1, "$.args.status");
    assert_eq!(decoded(json!({ "name": "t", "until": "" })).expect_err("empty").1, "$.args.until");
}

#[test]
fn a_replay_decodes() {
    let decoded = |args: Value| decode(&json!({ "type": "pg_replay_event_trigger", "args": args }), Endpoint::Query);
    let request = |args: Value| match decoded(args) {
        Ok(Command::Replay { request, dry_run, .. }) => (request, dry_run),
        other => panic!("{other:?}"),
    };
    use crate::triggers::{ReplayFrom, ReplayRequest};
    let from_time = ReplayRequest { from: ReplayFrom::Time("yesterday".into()), to_id: None, rate: None };
    assert_eq!(request(json!({ "name": "t", "from_time": "yesterday", "from_lsn": null })), (from_time, false));
    let from_lsn = ReplayRequest { from: ReplayFrom::Lsn("0/1".into()), to_id: None, rate: Some(5) };
    assert_eq!(request(json!({ "name": "t", "from_lsn": "0/1", "rate": 5, "dry_run": true })), (from_lsn, true));
    let from_id = ReplayRequest { from: ReplayFrom::Id("a".into()), to_id: Some("b".into()), rate: None };
    assert_eq!(request(json!({ "name": "t", "from_id": "a", "to_id": "b" })), (from_id, false));
    for args in [json!({ "name": "t" }), json!({ "name": "t", "from_lsn": "0/1", "from_id": "a" })] {
        let (_, path, text) = decoded(args).expect_err("not one begin");
        assert_eq!((path.as_str(), text.starts_with("exactly one of from_time")), ("$", true), "{text}");
    }
    assert_eq!(decoded(json!({ "name": "t", "from_lsn": "0/1", "rate": 0 })).expect_err("no rate").1, "$.rate");
}

#[test]
fn a_payload_is_kept_as_written() {
    let payload = |body: &str| match request::decode(body.as_bytes(), Endpoint::Metadata) {
        Ok(Command::Invoke { payload, .. }) => payload.get().to_owned(),
        other => panic!("{other:?}"),
    };
    let frame =
        |payload: &str| format!(r#"{{"type":"pg_invoke_event_trigger","args":{{"name":"t","payload":{payload}}}}}"#);
    for text in ["null", r#"{"b": 1, "a": 12345678901234567890.12345678901234567890}"#, "\"\\u0000\"", "[]"] {
        assert_eq!(payload(&frame(text)), text);
    }
    assert_eq!(payload(&frame(r#"1,"payload":2"#)), "2");
}

#[test]
fn missing_arguments_and_wrong_frames() {
    let object = |found: &str| format!("parsing Object failed, expected Object, but encountered {found}");
    let expected_tag = "parsing RQLQuery failed, expected tag field \"type\" to be one of [\"create_event_trigger\", \
         \"delete_event_trigger\", \"invoke_event_trigger\", \"redeliver_event\", \"redeliver_events\", \
         \"skip_event\", \"backfill_event_trigger\", \"get_backfills\", \"cancel_backfill\", \"pause_event_trigger\", \
         \"resume_event_trigger\", \"replay_event_trigger\", \"get_replays\", \
         \"cancel_replay\"], but found tag \"random\"";
    let cases: Vec<(Value, Endpoint, &str, String)> = vec![
        (json!("text"), Endpoint::Query, "$", object("String")),
        (json!([]), Endpoint::Query, "$", object("Array")),
        (
            json!(1),
            Endpoint::Metadata,
            "$",
            "parsing RQLMetadata failed, expected Object, but encountered Number".into(),
        ),
        (json!({}), Endpoint::Query, "$", "key \"type\" not found".into()),
        (
            json!({ "type": 1 }),
            Endpoint::Query,
            "$.type",
            "parsing Text failed, expected String, but encountered Number".into(),
        ),
        (json!({ "type": "redeliver_event" }), Endpoint::Metadata, "$", "key \"args\" not found".into()),
        (json!({ "type": "random" }), Endpoint::Query, "$.type", expected_tag.into()),
        (
            json!({ "type": "foo_bar" }),
            Endpoint::Metadata,
            "$",
            "unknown metadata command \"foo_bar\"; \"foo\" was not recognized as a valid backend name".into(),
        ),
        (
            json!({ "type": "pg_bar" }),
            Endpoint::Metadata,
            "$",
            "unknown metadata command \"bar\" for backend postgres".into(),
        ),
        (
            json!({ "type": "mssql_bar" }),
            Endpoint::Metadata,
            "$",
            "unknown metadata command \"bar\" for backend mssql".into(),
        ),
        (
            json!({ "type": "redeliver_event", "version": 3 }),
            Endpoint::Query,
            "$.version",
            "expected 1 or 2, encountered 3".into(),
        ),
        (
            json!({ "type": "delete_event_trigger", "args": "text" }),
            Endpoint::Query,
            "$",
            "parsing DeleteEventTriggerQuery failed, expected Object, but encountered String".into(),
        ),
        (json!({ "type": "delete_event_trigger", "args": {} }), Endpoint::Query, "$", "key \"name\" not found".into()),
        (
            json!({ "type": "invoke_event_trigger", "args": { "name": "t" } }),
            Endpoint::Query,
            "$",
            "key \"payload\" not found".into(),
        ),
        (
            json!({ "type": "redeliver_event", "args": {} }),
            Endpoint::Metadata,
            "$.args",
            "key \"event_id\" not found".into(),
        ),
        (json!({ "type": "create_event_trigger", "args": {} }), Endpoint::Query, "$", "key \"name\" not found".into()),
        (
            json!({ "type": "create_event_trigger", "args": { "name": "t" } }),
            Endpoint::Query,
            "$",
            "key \"table\" not found".into(),
        ),
        (
            json!({ "type": "pg_create_event_trigger", "args": {} }),
            Endpoint::Metadata,
            "$.args",
            format!("{WRAPPER}key \"name\" not found"),
        ),
    ];
    for (body, endpoint, path, text) in cases {
        let error = decode(&body, endpoint).expect_err(&body.to_string());
        assert_eq!(error, ("parse-failed".into(), path.into(), text), "{body}");
    }
    for body in [&b"{"[..], b"", b"\xff", b"{\"a\": 1,}", "[".repeat(10_000).as_bytes()] {
        let error = request::decode(body, Endpoint::Query).map_err(|error| fields(&error)).expect_err("no JSON");
        assert_eq!((error.0.as_str(), error.1.as_str()), ("invalid-json", "$"));
    }
}
