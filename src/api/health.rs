//! Whether the process lives, and whether it can do its work.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::ApiState;

/// What must hold before this node counts as ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Migrations ran.
    pub migrated: bool,
    /// The slot streams, here or on another node.
    pub streaming: bool,
    /// The API accepts requests.
    pub serving: bool,
}

impl Readiness {
    /// The names of what is not ready yet.
    pub fn missing(&self) -> Vec<&'static str> {
        [("migrated", self.migrated), ("streaming", self.streaming), ("serving", self.serving)]
            .into_iter()
            .filter(|(_, ready)| !ready)
            .map(|(name, _)| name)
            .collect()
    }
}

/// `GET /healthz`: the process answers.
pub(super) async fn healthz() -> &'static str {
    "ok"
}

/// `GET /readyz`: 200, or 503 with the names of what is not ready.
pub(super) async fn readyz(State(state): State<ApiState>) -> Response {
    let missing = state.readiness.borrow().missing();
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({ "ready": missing.is_empty(), "not_ready": missing }).to_string();
    (status, [(header::CONTENT_TYPE, "application/json; charset=utf-8")], body).into_response()
}
