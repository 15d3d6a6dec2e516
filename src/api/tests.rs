//! The router as a caller sees it: order of checks, statuses, headers. No database: what needs one is in tests/api.rs.

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::watch;
use tower_service::Service;

use super::{ApiState, Readiness, Secrets, Watched, router};
use crate::triggers::{Catalogue, ReplicaIdentityPolicy, SourceInfo};

type Headers<'a> = &'a [(&'a str, &'a str)];

/// A server whose database is not there: nothing listens on port 1.
pub(super) fn state(secret: Option<&str>) -> (ApiState, watch::Sender<Readiness>) {
    let settings: crate::postgres::Settings = "postgres://nobody@127.0.0.1:1/none".parse().expect("settings");
    let pool = crate::postgres::pool(&settings, "test", 1);
    let source = SourceInfo { name: "default".into(), publication: "p".into() };
    let catalogue = Catalogue::new(pool.clone(), pool, source, ReplicaIdentityPolicy::Full, None);
    let (sender, readiness) = watch::channel(Readiness::default());
    let secrets = Secrets { admin: secret.map(Into::into), metrics: None };
    (ApiState::new(vec![catalogue], secrets, readiness, Watched::default()), sender)
}

async fn call(
    state: &ApiState,
    method: &str,
    path: &str,
    headers: Headers<'_>,
    body: &str,
) -> (StatusCode, HeaderMap, String) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body.to_owned())).expect("request");
    let response = router(state.clone()).call(request).await.expect("infallible");
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("body");
    (parts.status, parts.headers, String::from_utf8(body.to_vec()).expect("UTF-8"))
}

#[tokio::test]
async fn checks_come_in_hasuras_order() {
    let (state, _sender) = state(Some("s3cret"));
    let secret = ("x-hasura-admin-secret", "s3cret");
    let user = ("x-hasura-role", "user");
    let valid = json!({ "type": "delete_event_trigger", "args": { "name": "t", "source": "x" } }).to_string();
    for path in ["/v1/query", "/v1/metadata"] {
        let cases: [(Headers<'_>, &str, u16, &str, &str); 6] = [
            (&[], "{", 401, "access-denied", "$"),
            (&[("x-hasura-admin-secret", "x")], "{", 401, "access-denied", "$"),
            (&[secret, user], "{", 400, "invalid-json", "$"),
            (&[secret, user], "{}", 400, "parse-failed", "$"),
            (&[secret, user], &valid, 400, "access-denied", "$.args"),
            (&[secret], &valid, 400, "not-exists", "$.args"),
        ];
        for (headers, body, status, code, error_path) in cases {
            let (found, headers, answer) = call(&state, "POST", path, headers, body).await;
            let answer: Value = serde_json::from_str(&answer).expect("JSON");
            assert_eq!(
                (found.as_u16(), &answer["code"], &answer["path"]),
                (status, &json!(code), &json!(error_path)),
                "{answer}"
            );
            assert_eq!(headers[header::CONTENT_TYPE], "application/json; charset=utf-8");
        }
    }
}

#[tokio::test]
async fn what_is_no_route_is_hasuras_404() {
    let (state, _sender) = state(Some("s3cret"));
    for (method, path) in
        [("GET", "/v1/query"), ("PUT", "/v1/metadata"), ("GET", "/"), ("POST", "/v2/query"), ("POST", "/healthz")]
    {
        let (status, headers, body) = call(&state, method, path, &[], "").await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{method} {path}");
        assert_eq!(body, r#"{"error":"resource does not exist","path":"$","code":"not-found"}"#);
        assert_eq!(headers[header::CONTENT_TYPE], "application/json; charset=utf-8");
    }
}

#[tokio::test]
async fn large_bodies_and_lost_databases_have_hasuras_shape() {
    let (state, _sender) = state(None);
    let (status, _, body) = call(&state, "POST", "/v1/query", &[], &" ".repeat((1 << 20) + 1)).await;
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (status, &answer["path"], &answer["code"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &json!("$"), &json!("bad-request"))
    );

    let body = json!({ "type": "delete_event_trigger", "args": { "name": "t" } }).to_string();
    let (status, headers, body) = call(&state, "POST", "/v1/query", &[("x-request-id", "abc")], &body).await;
    let answer: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    let internal = json!({ "request_id": "abc" });
    assert_eq!(
        answer,
        json!({ "error": "database query error", "path": "$", "code": "unexpected", "internal": internal })
    );
    assert!(!headers.contains_key("x-request-id"));
}

#[tokio::test]
async fn health_needs_no_secret() {
    let (state, sender) = state(Some("s3cret"));
    assert_eq!(call(&state, "GET", "/healthz", &[], "").await.2, "ok");
    sender.send_replace(Readiness { migrated: true, ..Readiness::default() });
    let (status, _, body) = call(&state, "GET", "/readyz", &[], "").await;
    assert_eq!(
        (status, body.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, r#"{"not_ready":["streaming","serving"],"ready":false}"#)
    );
    sender.send_replace(Readiness { migrated: true, streaming: true, serving: true });
    assert_eq!(call(&state, "GET", "/readyz", &[], "").await.0, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up() {
    let (state, _sender) = state(None);
    let body = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
    let request = Request::builder().method("POST").uri("/v1/query").header("host", "localhost").body(body);
    let response = router(state).call(request.expect("request")).await.expect("infallible");
    assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
}
