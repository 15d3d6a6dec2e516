//! From a body to a command: the frame `{"type": …, "args": …}` around every command's arguments.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::decode;
use super::error::ApiError;
use super::node::{DecodeError, Node};
use crate::model::Definition;
use crate::triggers::{DeadFilter, ReplayRequest};

/// Which of the two endpoints; they differ in paths and in the frame of messages (reference/hasura.md, 1.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `/v1/query`
    Query,
    /// `/v1/metadata`
    Metadata,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Command {
    Create { definition: Box<Definition>, replace: bool },
    Delete { name: String, source: String },
    Pause { name: String, source: String },
    Resume { name: String, source: String },
    Invoke { name: String, source: String, payload: Box<RawValue> },
    Redeliver { event_id: String, source: String },
    RedeliverDead { name: String, filter: DeadFilter, dry_run: bool, source: String },
    Skip { event_id: String, source: String },
    Backfill { name: String, condition: Option<String>, source: String },
    Backfills { name: Option<String>, source: String },
    CancelBackfill { id: String, source: String },
    Replay { name: String, request: ReplayRequest, dry_run: bool, source: String },
    Replays { name: Option<String>, source: String },
    CancelReplay { id: String, source: String },
}

/// The names of commands, without prefix.
const COMMANDS: [&str; 14] = [
    "create_event_trigger",
    "delete_event_trigger",
    "invoke_event_trigger",
    "redeliver_event",
    "redeliver_events",
    "skip_event",
    "backfill_event_trigger",
    "get_backfills",
    "cancel_backfill",
    "pause_event_trigger",
    "resume_event_trigger",
    "replay_event_trigger",
    "get_replays",
    "cancel_replay",
];
/// Hasura's prefix for Postgres.
const PREFIX: &str = "pg_";
/// Hasura's prefixes for other databases, and what it calls these.
const OTHER_BACKENDS: [(&str, &str); 6] = [
    ("pg", "postgres"),
    ("citus", "citus"),
    ("cockroach", "cockroach"),
    ("mssql", "mssql"),
    ("bigquery", "bigquery"),
    ("dataconnector", "dataconnector"),
];
const DOCUMENTATION: &str =
    "https://hasura.io/docs/latest/graphql/core/api-reference/metadata-api/index.html#metadata-apis";

/// Reads a body.
pub(super) fn decode(body: &[u8], endpoint: Endpoint) -> Result<Command, ApiError> {
    let body_text =
        std::str::from_utf8(body).map_err(|_| ApiError::bad_request("invalid-json", "$", "the body is not UTF-8"))?;
    let value: Value = serde_json::from_str(body_text)
        .map_err(|error| ApiError::bad_request("invalid-json", "$", format!("the body is not JSON: {error}")))?;
    let (kind, args) =
        frame(&value, endpoint).map_err(|error| ApiError::bad_request(error.code, error.path, error.text))?;
    let (command, prefixed) = match kind.strip_prefix(PREFIX) {
        Some(command) => (command, true),
        None => (kind, false),
    };
    if !COMMANDS.contains(&command) {
        return Err(unknown_command(kind, endpoint));
    }
    arguments(command, args, body_text).map_err(|error| explain(error, endpoint, prefixed.then_some(command)))
}

/// The checks around the arguments, in Hasura's order: object, version, type, args.
fn frame(value: &Value, endpoint: Endpoint) -> Result<(&str, &Value), DecodeError> {
    let parsing = match endpoint {
        Endpoint::Query => "Object",
        Endpoint::Metadata => "RQLMetadata",
    };
    let object = Node::root(value).object(parsing)?;
    if let Some(version) = object.optional("version") {
        let number = version.count()?;
        if !(1..=2).contains(&number) {
            return Err(version.error(format!("expected 1 or 2, encountered {number}")));
        }
    }
    let kind = object.required("type")?.text()?;
    // An unknown type is reported before missing args, so it is looked at here as well.
    if !COMMANDS.contains(&kind.strip_prefix(PREFIX).unwrap_or(kind)) {
        return Ok((kind, &Value::Null));
    }
    Ok((kind, object.required("args")?.value))
}

fn unknown_command(kind: &str, endpoint: Endpoint) -> ApiError {
    if endpoint == Endpoint::Query {
        let text = format!(
            "parsing RQLQuery failed, expected tag field \"type\" to be one of {COMMANDS:?}, but found tag {kind:?}"
        );
        return ApiError::bad_request("parse-failed", "$.type", text);
    }
    let (prefix, command) = kind.split_once('_').unwrap_or((kind, ""));
    let text = match OTHER_BACKENDS.iter().find(|(known, _)| *known == prefix) {
        Some((_, backend)) => format!("unknown metadata command {command:?} for backend {backend}"),
        None => format!("unknown metadata command {kind:?}; {prefix:?} was not recognized as a valid backend name"),
    };
    ApiError::bad_request("parse-failed", "$", text)
}

fn arguments(command: &str, args: &Value, body: &str) -> Result<Command, DecodeError> {
    let node = Node::root(args);
    match command {
        "create_event_trigger" => {
            let (definition, replace) = decode::create(&node)?;
            Ok(Command::Create { definition: Box::new(definition), replace })
        }
        "delete_event_trigger" => {
            let (name, source) = decode::named(&node, "DeleteEventTriggerQuery")?;
            Ok(Command::Delete { name, source })
        }
        "pause_event_trigger" => {
            let (name, source) = decode::named(&node, "PauseEventTriggerQuery")?;
            Ok(Command::Pause { name, source })
        }
        "resume_event_trigger" => {
            let (name, source) = decode::named(&node, "ResumeEventTriggerQuery")?;
            Ok(Command::Resume { name, source })
        }
        "invoke_event_trigger" => {
            let (name, source, payload) = decode::invoke(&node)?;
            Ok(Command::Invoke { name, source, payload: raw_payload(body, &payload)? })
        }
        "redeliver_events" => {
            let (name, filter, dry_run, source) = decode::redeliver_dead(&node)?;
            Ok(Command::RedeliverDead { name, filter, dry_run, source })
        }
        "backfill_event_trigger" => {
            let (name, condition, source) = decode::backfill(&node)?;
            Ok(Command::Backfill { name, condition, source })
        }
        "get_backfills" => {
            let (name, source) = decode::listed(&node, "GetBackfillsQuery")?;
            Ok(Command::Backfills { name, source })
        }
        "cancel_backfill" => {
            let (id, source) = decode::cancelled(&node, "CancelBackfillQuery", "backfill_id")?;
            Ok(Command::CancelBackfill { id, source })
        }
        "replay_event_trigger" => {
            let (name, request, dry_run, source) = decode::replay(&node)?;
            Ok(Command::Replay { name, request, dry_run, source })
        }
        "get_replays" => {
            let (name, source) = decode::listed(&node, "GetReplaysQuery")?;
            Ok(Command::Replays { name, source })
        }
        "cancel_replay" => {
            let (id, source) = decode::cancelled(&node, "CancelReplayQuery", "replay_id")?;
            Ok(Command::CancelReplay { id, source })
        }
        "skip_event" => {
            let (event_id, source) = decode::event(&node, "SkipEventQuery")?;
            Ok(Command::Skip { event_id, source })
        }
        _ => {
            let (event_id, source) = decode::event(&node, "RedeliverEventQuery")?;
            Ok(Command::Redeliver { event_id, source })
        }
    }
}

/// The payload as it was written, so that no digit of a number is lost.
fn raw_payload(body: &str, payload: &Node<'_>) -> Result<Box<RawValue>, DecodeError> {
    #[derive(Deserialize)]
    struct Frame {
        args: Args,
    }
    #[derive(Deserialize)]
    struct Args {
        payload: Box<RawValue>,
    }
    match serde_json::from_str::<Frame>(body) {
        Ok(frame) => Ok(frame.args.payload),
        // A key that stands twice: the last one counts, as everywhere in Hasura.
        Err(_) => serde_json::value::to_raw_value(payload.value).map_err(|error| payload.error(error.to_string())),
    }
}

/// Puts the endpoint's frame around an error in the arguments: `/v1/query` leaves `.args` out of the path, and
/// `/v1/metadata` wraps the text when the command has a prefix.
fn explain(error: DecodeError, endpoint: Endpoint, prefixed_command: Option<&str>) -> ApiError {
    let DecodeError { code, path, text } = error;
    if endpoint == Endpoint::Query {
        return ApiError::bad_request(code, path, text);
    }
    let path = format!("$.args{}", path.strip_prefix('$').unwrap_or(&path));
    let text = match prefixed_command {
        Some(command) => format!(
            "Error when parsing command {command}.\nSee our documentation at {DOCUMENTATION}.\nInternal error message: \
             {text}"
        ),
        None => text,
    };
    ApiError::bad_request(code, path, text)
}
