//! Hasura's API: `POST /v1/query` and `POST /v1/metadata` (reference/hasura.md, section 1; seed 003).

mod batch;
mod decode;
mod error;
mod limits;
mod node;
mod request;
mod retry_conf;

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::time::timeout;
use uuid::Uuid;

pub use error::ApiError;
use request::{Command, Endpoint};

use super::{ApiState, authentication};
use crate::triggers;

/// Bodies up to this many bytes are read.
const BODY_LIMIT: usize = 1 << 20;
/// A body that has not come by then never will: a stop would wait for it, and there is room for so many connections.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_ID: &str = "x-request-id";
/// Longer ids are not echoed, nor logged.
const REQUEST_ID_LIMIT: usize = 128;

/// `/v1/query`
pub(super) async fn query(State(state): State<ApiState>, request: Request) -> Response {
    answer(state, request, Endpoint::Query).await
}

/// `/v1/metadata`
pub(super) async fn metadata(State(state): State<ApiState>, request: Request) -> Response {
    answer(state, request, Endpoint::Metadata).await
}

/// Everything that is not a route, and every method but POST on one.
pub(super) async fn not_found() -> Response {
    ApiError::not_found().into_response()
}

async fn answer(state: ApiState, request: Request, endpoint: Endpoint) -> Response {
    if request.method() != Method::POST {
        return ApiError::not_found().into_response();
    }
    let (parts, body) = request.into_parts();
    let request_id = request_id(&parts.headers);
    match handle(state, &parts.headers, body, endpoint, &request_id).await {
        Ok(result) => {
            let content_type = HeaderValue::from_static("application/json; charset=utf-8");
            let mut response = ([(header::CONTENT_TYPE, content_type)], result.to_string()).into_response();
            if let Ok(value) = HeaderValue::from_str(&request_id) {
                response.headers_mut().insert(REQUEST_ID, value);
            }
            response
        }
        Err(error) => error.into_response(),
    }
}

/// The checks in Hasura's order (1.1): secret, syntax, decoding, role, execution.
async fn handle(
    state: ApiState,
    headers: &HeaderMap,
    body: Body,
    endpoint: Endpoint,
    request_id: &str,
) -> Result<serde_json::Value, ApiError> {
    authentication::check_secret(state.secrets.admin.as_ref(), headers)?;
    let reading = timeout(BODY_TIMEOUT, to_bytes(body, BODY_LIMIT));
    let read = reading.await.map_err(|_| ApiError::too_slow(BODY_TIMEOUT))?;
    // A body that breaks off is reported so as well, to a caller that is gone.
    let body = read.map_err(|_| ApiError::too_large(BODY_LIMIT))?;
    let command = request::decode(&body, endpoint)?;
    authentication::check_role(headers)?;
    // On a task of its own, so that a caller that hangs up does not cut short what follows the commit.
    let executed = tokio::spawn(async move { execute(&state, command).await }).await;
    let result = executed.map_err(|panic| {
        tracing::error!(request_id, error = %panic, "an API command broke off; its transaction was rolled back");
        ApiError::unexpected(request_id)
    })?;
    result.map_err(|error| {
        ApiError::from_catalogue(&error).unwrap_or_else(|| {
            tracing::error!(request_id, %error, "an API command failed; nothing of it was kept");
            ApiError::unexpected(request_id)
        })
    })
}

async fn execute(state: &ApiState, command: Command) -> Result<serde_json::Value, triggers::Error> {
    let success = json!({ "message": "success" });
    match command {
        Command::Create { definition, replace } => {
            state.catalogue(&definition.source)?.create(*definition, replace).await?;
            Ok(success)
        }
        Command::Delete { name, source } => {
            state.catalogue(&source)?.delete(&name).await?;
            Ok(success)
        }
        Command::Pause { name, source } => {
            state.catalogue(&source)?.pause(&name).await?;
            Ok(success)
        }
        Command::Resume { name, source } => {
            state.catalogue(&source)?.resume(&name).await?;
            Ok(success)
        }
        Command::Invoke { name, source, payload } => {
            let event_id = state.catalogue(&source)?.invoke(&name, &payload).await?;
            Ok(json!({ "event_id": event_id }))
        }
        Command::Backfill { name, condition, source } => {
            let id = state.catalogue(&source)?.start_backfill(&name, condition.as_deref()).await?;
            Ok(json!({ "backfill_id": id }))
        }
        Command::Replay { name, request, dry_run, source } => {
            let (id, events) = state.catalogue(&source)?.start_replay(&name, &request, dry_run).await?;
            Ok(id.map_or(json!({ "events": events }), |id| json!({ "replay_id": id, "events": events })))
        }
        Command::Replays { name, source } => {
            let found = state.catalogue(&source)?.replays(name.as_deref(), None).await?;
            Ok(json!({ "replays": found }))
        }
        Command::CancelReplay { id, source } => {
            state.catalogue(&source)?.cancel_replay(&id).await?;
            Ok(success)
        }
        Command::Backfills { name, source } => {
            let found = state.catalogue(&source)?.backfills(name.as_deref(), None).await?;
            Ok(json!({ "backfills": found }))
        }
        Command::CancelBackfill { id, source } => {
            state.catalogue(&source)?.cancel_backfill(&id).await?;
            Ok(success)
        }
        Command::RedeliverDead { name, filter, dry_run, source } => {
            let count = state.catalogue(&source)?.redeliver_dead(&name, &filter, dry_run).await?;
            Ok(json!({ "count": count }))
        }
        Command::Skip { event_id, source } => {
            state.catalogue(&source)?.skip(&event_id).await?;
            Ok(success)
        }
        Command::Redeliver { event_id, source } => {
            state.catalogue(&source)?.redeliver(&event_id).await?;
            Ok(success)
        }
    }
}

/// The caller's own id, if it can be echoed and logged; else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    match given.filter(|id| !id.is_empty() && id.len() <= REQUEST_ID_LIMIT) {
        Some(id) => id.to_owned(),
        None => Uuid::new_v4().to_string(),
    }
}

#[cfg(test)]
mod tests;
