//! Hasura's error body: `error`, `path`, `code`, sometimes `internal`, in this order (reference/hasura.md, 1.2).

use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use crate::model::Subject;
use crate::triggers::{self, Inconsistency};

/// What a caller is told.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    body: Body,
}

#[derive(Debug, Serialize)]
struct Body {
    error: String,
    path: String,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    internal: Option<Value>,
}

/// Where run-time errors are.
const ARGS: &str = "$.args";

impl ApiError {
    fn new(status: StatusCode, code: &'static str, path: impl Into<String>, error: impl Into<String>) -> Self {
        ApiError { status, body: Body { error: error.into(), path: path.into(), code, internal: None } }
    }

    /// The request cannot be understood, or asks for what is not supported.
    pub fn bad_request(code: &'static str, path: impl Into<String>, error: impl Into<String>) -> Self {
        ApiError::new(StatusCode::BAD_REQUEST, code, path, error)
    }

    /// No admin secret, or a wrong one.
    pub fn unauthorized(error: String) -> Self {
        ApiError::new(StatusCode::UNAUTHORIZED, "access-denied", "$", error)
    }

    /// The caller lowered its own role.
    pub fn wrong_role() -> Self {
        ApiError::bad_request("access-denied", ARGS, "restricted access : admin only")
    }

    /// There is no such route.
    pub fn not_found() -> Self {
        ApiError::new(StatusCode::NOT_FOUND, "not-found", "$", "resource does not exist")
    }

    /// The body is larger than is read.
    pub fn too_large(limit: usize) -> Self {
        let error = format!("the request body is larger than {limit} bytes; send a smaller one");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "bad-request", "$", error)
    }

    /// The body did not come in this time.
    pub fn too_slow(limit: Duration) -> Self {
        let error = format!("the request body did not come within {} s; send it again", limit.as_secs());
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "bad-request", "$", error)
    }

    /// Something that is not the caller's fault; the log has it under the request id.
    pub fn unexpected(request_id: &str) -> Self {
        let error = ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "unexpected", "$", "database query error");
        error.with_internal(json!({ "request_id": request_id }))
    }

    /// The source is not there yet; nothing is wrong with the request.
    fn not_set_up(error: String) -> Self {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "unexpected", "$", error)
    }

    fn with_internal(mut self, internal: Value) -> Self {
        self.body.internal = Some(internal);
        self
    }

    /// The catalogue's errors. `None` for those that are logged and not told.
    pub fn from_catalogue(error: &triggers::Error) -> Option<Self> {
        use triggers::Error;
        let code = match error {
            Error::UnknownSource(_)
            | Error::UnknownTable { .. }
            | Error::UnknownColumn(_)
            | Error::UnknownTrigger(_)
            | Error::EventNotFound
            | Error::UnknownBackfill(_)
            | Error::UnknownReplay(_) => "not-exists",
            Error::Duplicate(_) => "already-exists",
            Error::OtherTable | Error::ManualDisabled | Error::NoBackfill { .. } | Error::EventNotHeld => {
                "not-supported"
            }
            Error::Condition(_) | Error::Range(_) => "validation-failed",
            Error::EventBusy | Error::Locked { .. } | Error::InUse(_) => "busy",
            Error::Inconsistent { .. } | Error::Unpublished(_) => "invalid-configuration",
            Error::NotSetUp(_) => return Some(ApiError::not_set_up(error.to_string())),
            Error::Definition(_) | Error::Database(_) | Error::Queue(_) => return None,
        };
        let answer = ApiError::bad_request(code, ARGS, error.to_string());
        Some(match error {
            Error::Inconsistent { subject, trigger, reason } => {
                let name = match subject {
                    Subject::Table(table) => format!("event_trigger {trigger} in table {table}"),
                    Subject::Type(name) => format!("event_trigger {trigger} in event type {name}"),
                };
                answer.with_internal(inconsistent_objects(name, error, reason))
            }
            _ => answer,
        })
    }

    /// The message.
    #[cfg(test)]
    pub fn text(&self) -> &str {
        &self.body.error
    }

    /// Code and path.
    #[cfg(test)]
    pub fn code_and_path(&self) -> (&str, &str) {
        (self.body.code, &self.body.path)
    }
}

/// Hasura's list of inconsistent objects. The definition is left out: it may hold secrets. What is to be run is added.
fn inconsistent_objects(name: String, error: &triggers::Error, reason: &Inconsistency) -> Value {
    let mut object = json!({ "name": name, "reason": error.to_string(), "type": "event_trigger" });
    let statements = reason.statements();
    if !statements.is_empty() {
        object["statements"] = json!(statements);
    }
    json!([object])
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        // Strings and numbers only: this cannot fail.
        let body = serde_json::to_string(&self.body).unwrap_or_default();
        (self.status, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], body).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{TableName, TemplateError};
    use crate::triggers::Error;

    fn inconsistent(reason: Inconsistency) -> Error {
        let subject = Subject::Table(TableName::new("public", "users"));
        Error::Inconsistent { subject, trigger: "t".into(), reason: Box::new(reason) }
    }

    #[test]
    fn the_catalogues_errors_are_hasuras() {
        let table = || TableName::new("public", "users");
        let unset = TemplateError::NotSet("X".into());
        let missing = TemplateError::NotFound(vec!["X".into()]);
        let frame = "Inconsistent object: in table \"users\": in event trigger \"t\": ";
        let cases: Vec<(Error, &str, String)> = vec![
            (Error::UnknownSource("x".into()), "not-exists", "source with name \"x\" does not exist".into()),
            (
                Error::UnknownTable { table: table(), origin: "default".into() },
                "not-exists",
                "table \"users\" does not exist in source: default".into(),
            ),
            (
                Error::UnknownTable { table: TableName::new("shop", "users"), origin: "default".into() },
                "not-exists",
                "table \"shop.users\" does not exist in source: default".into(),
            ),
            (Error::UnknownColumn("nope".into()), "not-exists", "column \"nope\" does not exist".into()),
            (Error::UnknownTrigger("t".into()), "not-exists", "event trigger \"t\" does not exist".into()),
            (Error::Duplicate("t".into()), "already-exists", "Event trigger with name \"t\" already exists".into()),
            (Error::OtherTable, "not-supported", "cannot replace table or schema for trigger".into()),
            (Error::ManualDisabled, "not-supported", "manual mode is not enabled for event trigger".into()),
            (Error::EventNotFound, "not-exists", "event not found".into()),
            (Error::EventBusy, "busy", "event is already being processed".into()),
            (inconsistent(unset.into()), "invalid-configuration", format!("{frame}environment variable 'X' not set")),
            (
                inconsistent(missing.into()),
                "invalid-configuration",
                format!("{frame}Value for environment variables not found: X"),
            ),
        ];
        for (error, code, text) in cases {
            let answer = ApiError::from_catalogue(&error).expect("told");
            assert_eq!(
                (answer.status, answer.body.code, answer.body.path.as_str()),
                (StatusCode::BAD_REQUEST, code, "$.args")
            );
            assert_eq!(answer.body.error, text);
        }
        let database = crate::postgres::Error::Settings("secret".into());
        assert!(ApiError::from_catalogue(&Error::Database(database)).is_none());
    }

    #[test]
    fn keys_come_in_hasuras_order() {
        let statements = vec!["ALTER TABLE a;".to_owned()];
        let answer = ApiError::from_catalogue(&inconsistent(Inconsistency::NoIdentity { statements })).expect("told");
        let text = serde_json::to_string(&answer.body).expect("json");
        let places: Vec<_> =
            ["\"error\":", "\"path\":", "\"code\":", "\"internal\":"].map(|key| text.find(key).expect(key)).into();
        assert!(places.is_sorted(), "{text}");
        assert!(text.contains("\"statements\":[\"ALTER TABLE a;\"]"), "{text}");
        let plain = serde_json::to_string(&ApiError::not_found().body).expect("json");
        assert_eq!(plain, r#"{"error":"resource does not exist","path":"$","code":"not-found"}"#);
    }
}
