//! Hasura's API from the outside: the errors of reference/hasura.md 1.9 on both endpoints, and that a failure leaves
//! nothing behind.

mod support;

use serde_json::{Value, json};
use support::scene::{Scene, trigger};

const TABLES: &str = "create table users (id int primary key, name text); create table plain (id int);
                      create schema shop; create view looks as select * from users";
const PARSING: &str = "Error when parsing command create_event_trigger.\nSee our documentation at \
    https://hasura.io/docs/latest/graphql/core/api-reference/metadata-api/index.html#metadata-apis.\nInternal error \
    message: ";

/// What must be the same after a failure.
const STATE: &str = "
    select json_build_array(
        (select json_agg(t order by t.tablename) from pg_publication_tables t),
        (select json_agg(json_build_array(relname, relreplident) order by relname) from pg_class
         where relnamespace = 'public'::regnamespace),
        (select json_agg(json_build_array(id, version, definition) order by id) from walhook.trigger),
        (select json_agg(json_build_array(trigger_id, version) order by trigger_id, version)
         from walhook.trigger_version),
        (select json_agg(w order by relation) from walhook.watched_table w),
        (select count(*) from walhook.event), (select count(*) from walhook.deferred))::text";

/// What an answer must be; no text where Hasura's own is not stable.
struct Expected {
    code: &'static str,
    /// On `/v1/query`, and on `/v1/metadata`.
    paths: [&'static str; 2],
    text: Option<&'static str>,
}

/// Run-time errors are at `$.args` on both.
fn at_run_time(code: &'static str, text: &'static str) -> Expected {
    Expected { code, paths: ["$.args", "$.args"], text: Some(text) }
}

fn in_decoding(paths: [&'static str; 2], text: &'static str) -> Expected {
    Expected { code: "parse-failed", paths, text: Some(text) }
}

/// Calls both endpoints, without and with prefix; all must fail as expected and change nothing.
async fn check(scene: &Scene, command: &str, args: Value, expected: Expected) {
    let before: String = scene.value(STATE, &[]).await;
    for (endpoint, prefix, path) in [("/v1/query", "", expected.paths[0]), ("/v1/metadata", "pg_", expected.paths[1])] {
        let body = json!({"type": format!("{prefix}{command}"), "args": args});
        let (status, answer) = scene.walhook.post(endpoint, &body).await;
        assert_eq!(
            (status, &answer["code"], &answer["path"]),
            (400, &json!(expected.code), &json!(path)),
            "{body}: {answer}"
        );
        if let Some(text) = expected.text {
            let decoding = expected.code == "parse-failed" && endpoint == "/v1/metadata";
            let frame = if decoding { PARSING } else { "" };
            assert_eq!(answer["error"], format!("{frame}{text}"), "{body}");
        }
        assert_eq!(scene.value::<String>(STATE, &[]).await, before, "{body} left something behind");
    }
}

/// Arguments of a trigger on `users` with some keys changed; null takes a key away.
fn changed(changes: Value) -> Value {
    let mut args = trigger("t", "users", "http://127.0.0.1:9/", changes);
    args.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    args
}

#[tokio::test]
async fn arguments_that_cannot_be_decoded_are_refused_as_hasura_does() {
    let scene = Scene::start(TABLES).await;
    let whole = ["$", "$.args"];
    let long = "a".repeat(43);
    for (changes, paths, text) in [
        (json!({"name": null}), whole, "key \"name\" not found"),
        (json!({"table": null}), whole, "key \"table\" not found"),
        (json!({"name": ""}), ["$.name", "$.args.name"], "empty string not allowed"),
        (json!({"name": "1a"}), whole, "only alphanumeric and underscore and hyphens allowed for name"),
        (json!({"name": "a.b"}), whole, "only alphanumeric and underscore and hyphens allowed for name"),
        (json!({"name": long}), whole, "event trigger name can be at most 42 characters"),
        (
            json!({"insert": null, "update": null, "delete": null}),
            whole,
            "atleast one amongst insert/update/delete/enable_manual spec must be provided",
        ),
        (json!({"webhook": null}), whole, "must provide webhook or webhook_from_env"),
        (json!({"webhook_from_env": "HOOK"}), whole, "only one of webhook or webhook_from_env should be given"),
        (json!({"insert": {"columns": []}}), whole, "found empty column specification"),
        (json!({"insert": {"columns": "*", "payload": []}}), whole, "found empty payload specification"),
        (
            json!({"retry_conf": {"num_retries": "4", "interval_sec": 1}}),
            ["$.retry_conf.num_retries", "$.args.retry_conf.num_retries"],
            "parsing Int failed, expected Number, but encountered String",
        ),
    ] {
        check(&scene, "create_event_trigger", changed(changes), in_decoding(paths, text)).await;
    }
    // Names of 42 characters are fine.
    scene.create(&"a".repeat(42), "users", "/t", json!({})).await;
}

#[tokio::test]
async fn definitions_that_cannot_work_are_refused_as_hasura_does() {
    let scene = Scene::start(TABLES).await;
    let inconsistent = |text| at_run_time("invalid-configuration", text);
    let columns = |columns: Value| json!({"update": {"columns": columns}});
    for (changes, expected) in [
        (json!({"source": "x"}), at_run_time("not-exists", "source with name \"x\" does not exist")),
        (json!({"table": "nope"}), at_run_time("not-exists", "table \"nope\" does not exist in source: default")),
        (
            json!({"table": {"schema": "shop", "name": "users"}}),
            at_run_time("not-exists", "table \"shop.users\" does not exist in source: default"),
        ),
        (columns(json!(["id", "nope"])), at_run_time("not-exists", "column \"nope\" does not exist")),
        (json!({"replace": true}), at_run_time("not-exists", "event trigger \"t\" does not exist")),
        (
            json!({"webhook": null, "webhook_from_env": "UNSET_X"}),
            inconsistent(
                "Inconsistent object: in table \"users\": in event trigger \"t\": environment variable 'UNSET_X' not \
                       set",
            ),
        ),
        (
            json!({"headers": [{"name": "a", "value_from_env": "UNSET_X"}]}),
            inconsistent(
                "Inconsistent object: in table \"users\": in event trigger \"t\": environment variable 'UNSET_X' not \
                       set",
            ),
        ),
        (
            json!({"webhook": "{{UNSET_X}}/a"}),
            inconsistent(
                "Inconsistent object: in table \"users\": in event trigger \"t\": Value for environment variables not \
                       found: UNSET_X",
            ),
        ),
        (json!({"insert": {"columns": "*", "payload": ["nope"]}}), Expected { text: None, ..inconsistent("") }),
        (json!({"table": "looks"}), Expected { text: None, ..inconsistent("") }),
        (json!({"webhook": "not a url"}), Expected { text: None, ..inconsistent("") }),
        (json!({"headers": [{"name": "bad name", "value": "v"}]}), Expected { text: None, ..inconsistent("") }),
    ] {
        check(&scene, "create_event_trigger", changed(changes), expected).await;
    }
    assert_eq!(scene.count("select count(*) from walhook.trigger").await, 0);
}

#[tokio::test]
async fn names_are_unique_and_replacements_stay_on_their_table() {
    let scene = Scene::start(TABLES).await;
    scene.create("t", "users", "/t", json!({})).await;
    let exists = || at_run_time("already-exists", "Event trigger with name \"t\" already exists");
    check(&scene, "create_event_trigger", changed(json!({})), exists()).await;
    check(&scene, "create_event_trigger", changed(json!({"table": "plain"})), exists()).await;
    let moved = at_run_time("not-supported", "cannot replace table or schema for trigger");
    check(&scene, "create_event_trigger", changed(json!({"table": "plain", "replace": true})), moved).await;
    let unknown = at_run_time("not-exists", "column \"nope\" does not exist");
    let columns = json!({"replace": true, "update": {"columns": ["nope"]}});
    check(&scene, "create_event_trigger", changed(columns), unknown).await;
}

#[tokio::test]
async fn commands_about_what_is_not_there_are_refused() {
    let scene = Scene::start(TABLES).await;
    let source = || at_run_time("not-exists", "source with name \"x\" does not exist");
    let unknown = || at_run_time("not-exists", "event trigger \"t\" does not exist");
    let event = || at_run_time("not-exists", "event not found");
    check(&scene, "delete_event_trigger", json!({"name": "t"}), unknown()).await;
    check(&scene, "delete_event_trigger", json!({"name": "t", "source": "x"}), source()).await;
    check(&scene, "invoke_event_trigger", json!({"name": "t", "payload": {}}), unknown()).await;
    check(&scene, "invoke_event_trigger", json!({"name": "t", "payload": {}, "source": "x"}), source()).await;
    check(&scene, "redeliver_event", json!({"event_id": "x"}), event()).await;
    check(&scene, "redeliver_event", json!({"event_id": "x", "source": "x"}), source()).await;
    check(&scene, "skip_event", json!({"event_id": "x"}), event()).await;
}

/// Posts a body as it is; gives status, code and path.
async fn posted(scene: &Scene, endpoint: &str, body: &str) -> (u16, String, String) {
    let (status, answer) = scene.walhook.post_text(endpoint, body).await;
    let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    (status, text("code"), text("path"))
}

#[tokio::test]
async fn bodies_that_are_no_commands_are_refused() {
    let scene = Scene::start(TABLES).await;
    let before: String = scene.value(STATE, &[]).await;
    for (body, code, paths) in [
        ("", "invalid-json", ["$", "$"]),
        ("{", "invalid-json", ["$", "$"]),
        ("{\"type\": \"x\"} trailing", "invalid-json", ["$", "$"]),
        ("\"text\"", "parse-failed", ["$", "$"]),
        ("[]", "parse-failed", ["$", "$"]),
        ("null", "parse-failed", ["$", "$"]),
        ("{}", "parse-failed", ["$", "$"]),
        ("{\"type\": \"create_event_trigger\"}", "parse-failed", ["$", "$"]),
        ("{\"type\": \"random\", \"args\": {}}", "parse-failed", ["$.type", "$"]),
        ("{\"type\": \"foo_bar\", \"args\": {}}", "parse-failed", ["$.type", "$"]),
        ("{\"type\": \"pg_nope\", \"args\": {}}", "parse-failed", ["$.type", "$"]),
        (
            "{\"type\": \"create_event_trigger\", \"version\": 3, \"args\": {}}",
            "parse-failed",
            ["$.version", "$.version"],
        ),
    ] {
        for (endpoint, path) in [("/v1/query", paths[0]), ("/v1/metadata", paths[1])] {
            let expected = (400, code.to_owned(), path.to_owned());
            assert_eq!(posted(&scene, endpoint, body).await, expected, "{endpoint} {body}");
        }
    }
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(posted(&scene, "/v1/query", &nested).await.0, 400);
    let large = format!("{{\"type\": \"{}\"}}", "x".repeat(2 << 20));
    assert!((400..500).contains(&posted(&scene, "/v1/query", &large).await.0));
    assert_eq!(scene.value::<String>(STATE, &[]).await, before);
    assert_eq!(scene.walhook.get("/healthz").await.0, 200);
}

#[tokio::test]
async fn what_is_not_there_is_answered_as_hasura_does() {
    let scene = Scene::start(TABLES).await;
    let expected = json!({"path": "$", "error": "resource does not exist", "code": "not-found"});
    for path in ["/", "/v1", "/v1/nope", "/v1/query/", "/v1/query", "/v1/metadata"] {
        assert_eq!(scene.walhook.get(path).await, (404, expected.clone()), "{path}");
    }
    assert_eq!(scene.walhook.post("/nope", &json!({})).await, (404, expected));
    let text = "unknown metadata command \"foo_bar\"; \"foo\" was not recognized as a valid backend name";
    let (_, answer) = scene.walhook.post("/v1/metadata", &json!({"type": "foo_bar", "args": {}})).await;
    assert_eq!(answer["error"], text);
}

#[tokio::test]
async fn the_secret_is_asked_for_before_anything_else_and_the_role_after_decoding() {
    const SECRET: &str = "s3cr3t-of-the-test";
    let scene = Scene::start_with(TABLES, |start| start.env("WALHOOK_ADMIN_SECRET", SECRET)).await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let send = async |body: &str, headers: &[(&str, &str)]| {
        let mut request = client.post(scene.walhook.url("/v1/metadata")).body(body.to_owned());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.expect("an answer");
        let kind = answer.headers()["content-type"].to_str().expect("a text").to_owned();
        assert_eq!(kind, "application/json; charset=utf-8");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
    };
    let valid = json!({"type": "pg_create_event_trigger", "args": changed(json!({}))}).to_string();
    let denied = |text: &str| json!({"error": text, "path": "$", "code": "access-denied"});
    let required = "\"x-hasura-admin-secret\"/\"x-hasura-access-key\" required, but not found";
    let invalid = "invalid \"x-hasura-admin-secret\"/\"x-hasura-access-key\"";
    for body in [valid.as_str(), "garbage"] {
        assert_eq!(send(body, &[]).await, (401, denied(required)));
        assert_eq!(send(body, &[("X-Hasura-Admin-Secret", "wrong")]).await, (401, denied(invalid)));
        assert_eq!(send(body, &[("X-Hasura-Access-Key", "wrong")]).await, (401, denied(invalid)));
    }
    let user = [("X-Hasura-Admin-Secret", SECRET), ("X-Hasura-Role", "user")];
    assert_eq!(send("garbage", &user).await.1["code"], "invalid-json");
    let restricted = json!({"error": "restricted access : admin only", "path": "$.args", "code": "access-denied"});
    assert_eq!(send(&valid, &user).await, (400, restricted));
    assert_eq!(scene.count("select count(*) from walhook.trigger").await, 0);
    assert_eq!(send(&valid, &[("X-Hasura-Access-Key", SECRET), ("X-Hasura-Role", "admin")]).await.0, 200);
    assert_eq!(scene.walhook.get("/readyz").await.0, 200, "health needs no secret");
    assert!(!scene.walhook.log().contains(SECRET));
}

#[tokio::test]
async fn concurrent_calls_for_one_name_make_one_trigger() {
    let scene = Scene::start(TABLES).await;
    let calls = (0..8).map(|_| scene.call("create_event_trigger", changed(json!({}))));
    let answers = futures_util::future::join_all(calls).await;
    let mut statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400, 400, 400, 400, 400, 400, 400], "{answers:?}");
    assert_eq!(scene.count("select count(*) from walhook.trigger_version").await, 1);
}
