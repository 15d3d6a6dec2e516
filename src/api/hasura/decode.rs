//! The commands' arguments. Checks come in the order of reference/hasura.md 1.3; the first that fails is reported.

use super::node::{DecodeError, Node, Object};
use super::{batch, limits, retry_conf};
use crate::model::{
    Columns, Definition, EVENT_TYPE_LIMIT, Header, HeaderValue, OnDead, OperationSpec, Operations, Ordering, Place,
    Subject, TableName, Webhook, check_template, check_variable,
};
use crate::triggers::{DeadFilter, ReplayFrom, ReplayRequest};

/// Hasura's limit: 63 bytes of a Postgres name less what it puts around a trigger's.
const NAME_LIMIT: usize = 42;
const DEFAULT_SOURCE: &str = "default";
const DEFAULT_SCHEMA: &str = "public";
/// Keys of Hasura that change what is sent: taking them without doing so would send wrong requests.
const UNSUPPORTED: [&str; 2] = ["request_transform", "response_transform"];

/// `create_event_trigger`: the definition, and `replace`.
pub(super) fn create(args: &Node<'_>) -> Result<(Definition, bool), DecodeError> {
    let object = args.object("CreateEventTriggerQuery")?;
    let name = object.required("name")?.non_empty_text()?.to_owned();
    let subject = subject(&object)?;
    let source = source(&object)?;
    let operations = Operations {
        insert: operation(&object, "insert")?,
        update: operation(&object, "update")?,
        delete: operation(&object, "delete")?,
        truncate: truncate(&object)?,
    };
    let enable_manual = boolean(&object, "enable_manual")?;
    let retry_conf =
        object.optional("retry_conf").map(|node| retry_conf::decode(&node)).transpose()?.unwrap_or_default();
    let limits = limits::decode(&object)?;
    let batch = object.optional("batch").map(|node| batch::decode(&node)).transpose()?;
    let url = object.optional("webhook").map(|node| template(&node)).transpose()?;
    let url_variable =
        object.optional("webhook_from_env").map(|node| variable(&node, Place::WebhookFromEnv)).transpose()?;
    let headers = object.optional("headers").map(|node| headers(&node)).transpose()?.unwrap_or_default();
    let replace = boolean(&object, "replace")?;
    let trigger_on_replication = boolean(&object, "trigger_on_replication")?;
    let fire_on_unchanged = boolean(&object, "fire_on_unchanged")?;
    let transaction = boolean(&object, "transaction")?;
    let (ordering, on_dead) = order(&object)?;

    check_name(&object, &name)?;
    check_operations(&object, &subject, &operations, enable_manual)?;
    let webhook = match (url, url_variable) {
        (Some(url), None) => Webhook::Url(url),
        (None, Some(variable)) => Webhook::FromEnv(variable),
        (Some(_), Some(_)) => return Err(object.error("only one of webhook or webhook_from_env should be given")),
        (None, None) => return Err(object.error("must provide webhook or webhook_from_env")),
    };
    check_columns(&object, &operations)?;
    if let Some(node) = UNSUPPORTED.into_iter().find(|key| object.optional(key).is_some()) {
        let text = format!("{node} is not supported by this release of walhook; leave it out");
        return Err(DecodeError { code: "not-supported", ..object.error(text) });
    }
    let definition = Definition {
        name,
        source,
        subject,
        webhook,
        operations,
        enable_manual,
        headers,
        retry_conf,
        limits,
        batch,
        fire_on_unchanged,
        trigger_on_replication,
        transaction,
        ordering,
        on_dead,
    };
    Ok((definition, replace))
}

/// `delete_event_trigger` and all others that need no more than name and source; `parsing` is the type's name.
pub(super) fn named(args: &Node<'_>, parsing: &str) -> Result<(String, String), DecodeError> {
    let object = args.object(parsing)?;
    Ok((object.required("name")?.non_empty_text()?.to_owned(), source(&object)?))
}

/// `invoke_event_trigger`: name, source and where the payload stands.
pub(super) fn invoke<'a>(args: &Node<'a>) -> Result<(String, String, Node<'a>), DecodeError> {
    let object = args.object("InvokeEventTriggerQuery")?;
    let name = object.required("name")?.non_empty_text()?.to_owned();
    let source = source(&object)?;
    Ok((name, source, object.required("payload")?))
}

/// `redeliver_event` and `skip_event`: event id and source. Any text may be asked for; one that is no UUID is not
/// found.
pub(super) fn event(args: &Node<'_>, parsing: &str) -> Result<(String, String), DecodeError> {
    let object = args.object(parsing)?;
    Ok((object.required("event_id")?.text()?.to_owned(), source(&object)?))
}

/// `redeliver_events`: the trigger's name, which of its dead events, whether they are only counted, and source.
pub(super) fn redeliver_dead(args: &Node<'_>) -> Result<(String, DeadFilter, bool, String), DecodeError> {
    let object = args.object("RedeliverEventsQuery")?;
    let name = object.required("name")?.non_empty_text()?.to_owned();
    let status = object.optional("status").map(|node| node.count()).transpose()?;
    let filter = DeadFilter {
        since: text(&object, "since")?,
        until: text(&object, "until")?,
        status: status.map(|status| i32::try_from(status).unwrap_or(i32::MAX)),
    };
    Ok((name, filter, boolean(&object, "dry_run")?, source(&object)?))
}

/// `backfill_event_trigger`: name, condition and source.
pub(super) fn backfill(args: &Node<'_>) -> Result<(String, Option<String>, String), DecodeError> {
    let object = args.object("BackfillEventTriggerQuery")?;
    let name = object.required("name")?.non_empty_text()?.to_owned();
    let condition = text(&object, "where")?;
    Ok((name, condition, source(&object)?))
}

/// `get_backfills`, `get_replays`: the trigger's name, if those of one are asked for, and source.
pub(super) fn listed(args: &Node<'_>, parsing: &str) -> Result<(Option<String>, String), DecodeError> {
    let object = args.object(parsing)?;
    Ok((text(&object, "name")?, source(&object)?))
}

/// `cancel_backfill`, `cancel_replay`: the id, which stands under `key`, and source. Any text may be asked for, as with
/// events.
pub(super) fn cancelled(args: &Node<'_>, parsing: &str, key: &str) -> Result<(String, String), DecodeError> {
    let object = args.object(parsing)?;
    Ok((object.required(key)?.text()?.to_owned(), source(&object)?))
}

/// `replay_event_trigger`: the trigger's name, what is to be sent again, whether it is only counted, and source.
pub(super) fn replay(args: &Node<'_>) -> Result<(String, ReplayRequest, bool, String), DecodeError> {
    let object = args.object("ReplayEventTriggerQuery")?;
    let name = object.required("name")?.non_empty_text()?.to_owned();
    let from = match (text(&object, "from_time")?, text(&object, "from_lsn")?, text(&object, "from_id")?) {
        (Some(time), None, None) => ReplayFrom::Time(time),
        (None, Some(lsn), None) => ReplayFrom::Lsn(lsn),
        (None, None, Some(id)) => ReplayFrom::Id(id),
        _ => return Err(object.error("exactly one of from_time, from_lsn and from_id must be given")),
    };
    let rate = object.optional("rate").map(|node| match node.count()? {
        0 => Err(node.error("a rate is at least one event a second")),
        rate => Ok(rate),
    });
    let request = ReplayRequest { from, to_id: text(&object, "to_id")?, rate: rate.transpose()? };
    Ok((name, request, boolean(&object, "dry_run")?, source(&object)?))
}

fn source(object: &Object<'_>) -> Result<String, DecodeError> {
    let node = object.optional("source");
    Ok(node.map(|node| node.text()).transpose()?.unwrap_or(DEFAULT_SOURCE).to_owned())
}

fn text(object: &Object<'_>, key: &str) -> Result<Option<String>, DecodeError> {
    Ok(object.optional(key).map(|node| node.non_empty_text()).transpose()?.map(ToOwned::to_owned))
}

fn boolean(object: &Object<'_>, key: &str) -> Result<bool, DecodeError> {
    Ok(object.optional(key).map(|node| node.boolean()).transpose()?.unwrap_or(false))
}

/// Hasura's `table`, or in its place walhook's `type`, for custom events.
fn subject(object: &Object<'_>) -> Result<Subject, DecodeError> {
    match object.optional("type") {
        None => table(&object.required("table")?).map(Subject::Table),
        Some(_) if object.optional("table").is_some() => Err(object.error("only one of table or type should be given")),
        Some(node) => {
            let name = node.non_empty_text()?;
            if name.len() > EVENT_TYPE_LIMIT || name.contains('\0') {
                let text = format!("an event type has at most {EVENT_TYPE_LIMIT} bytes and no \\u0000");
                return Err(node.error(text));
            }
            Ok(Subject::Type(name.to_owned()))
        }
    }
}

/// A name in schema `public`, or an object with `name` and perhaps `schema`.
fn table(node: &Node<'_>) -> Result<TableName, DecodeError> {
    if node.value.is_string() {
        return Ok(TableName::new(DEFAULT_SCHEMA, node.text()?));
    }
    if !node.value.is_object() {
        return Err(node.error("expecting a string/object for QualifiedObject"));
    }
    let object = node.object("QualifiedObject")?;
    let name = object.required("name")?.text()?;
    let schema = object.optional("schema").map(|node| node.text()).transpose()?.unwrap_or(DEFAULT_SCHEMA);
    Ok(TableName::new(schema, name))
}

fn operation(object: &Object<'_>, key: &str) -> Result<Option<OperationSpec>, DecodeError> {
    let Some(node) = object.optional(key) else { return Ok(None) };
    let spec = node.object("SubscribeOpSpec")?;
    let listed = columns(&spec.required("columns")?)?;
    let payload = spec.optional("payload").map(|node| columns(&node)).transpose()?.unwrap_or_default();
    Ok(Some(OperationSpec { columns: listed, payload }))
}

/// walhook's own beside Hasura's three: an object without keys, because no row is sent.
fn truncate(object: &Object<'_>) -> Result<bool, DecodeError> {
    Ok(object.optional("truncate").map(|node| node.object("TruncateSpec")).transpose()?.is_some())
}

/// walhook's own: which events wait for earlier ones, also for dead ones.
fn order(object: &Object<'_>) -> Result<(Ordering, OnDead), DecodeError> {
    let ordering = object.optional("ordering").map(|node| match node.text()? {
        "row" => Ok(Ordering::Row),
        "none" => Ok(Ordering::None),
        "trigger" => Ok(Ordering::Trigger),
        _ => Err(node.error("expecting row, none or trigger")),
    });
    let ordering = ordering.transpose()?.unwrap_or_default();
    let on_dead = object.optional("on_dead").map(|node| match node.text()? {
        "continue" => Ok(OnDead::Continue),
        "hold" if ordering == Ordering::None => {
            Err(node.error("hold needs an order to keep: leave out \"ordering\": \"none\", or on_dead"))
        }
        "hold" => Ok(OnDead::Hold),
        _ => Err(node.error("expecting continue or hold")),
    });
    Ok((ordering, on_dead.transpose()?.unwrap_or_default()))
}

fn columns(node: &Node<'_>) -> Result<Columns, DecodeError> {
    match node.value {
        serde_json::Value::String(star) if star == "*" => Ok(Columns::All),
        serde_json::Value::String(_) => Err(node.error("only * or [] allowed")),
        serde_json::Value::Array(_) => {
            let names: Result<Vec<_>, _> = node.array()?.iter().map(|name| Ok(name.text()?.to_owned())).collect();
            Ok(Columns::Only(names?))
        }
        _ => Err(node.error("unexpected columns")),
    }
}

fn headers(node: &Node<'_>) -> Result<Vec<Header>, DecodeError> {
    node.array()?.iter().map(header).collect()
}

fn header(node: &Node<'_>) -> Result<Header, DecodeError> {
    if !node.value.is_object() {
        return Err(node.error("expecting object for headers"));
    }
    let object = node.object("HeaderConf")?;
    let name = object.required("name")?.text()?.to_owned();
    let value = match (object.optional("value"), object.optional("value_from_env")) {
        (Some(value), None) => HeaderValue::Literal(template(&value)?),
        (None, Some(name)) => {
            let name = name.text()?;
            check_variable(name, Place::ValueFromEnv).map_err(|error| node.error(error.to_string()))?;
            HeaderValue::FromEnv(name.to_owned())
        }
        (None, None) => return Err(node.error("expecting value or value_from_env keys")),
        (Some(_), Some(_)) => return Err(node.error("expecting only one of value or value_from_env keys")),
    };
    Ok(Header { name, value })
}

fn template(node: &Node<'_>) -> Result<String, DecodeError> {
    let text = node.text()?;
    check_template(text).map_err(|error| node.error(error.to_string()))?;
    Ok(text.to_owned())
}

fn variable(node: &Node<'_>, place: Place) -> Result<String, DecodeError> {
    let name = node.text()?;
    check_variable(name, place).map_err(|error| node.error(error.to_string()))?;
    Ok(name.to_owned())
}

/// `^[A-Za-z]+[A-Za-z0-9_\-]*$`, at most 42 characters.
fn check_name(object: &Object<'_>, name: &str) -> Result<(), DecodeError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !name.starts_with(|first: char| first.is_ascii_alphabetic()) || !name.bytes().all(allowed) {
        return Err(object.error("only alphanumeric and underscore and hyphens allowed for name"));
    }
    if name.len() > NAME_LIMIT {
        return Err(object.error(format!("event trigger name can be at most {NAME_LIMIT} characters")));
    }
    Ok(())
}

fn check_operations(
    object: &Object<'_>,
    subject: &Subject,
    operations: &Operations,
    enable_manual: bool,
) -> Result<(), DecodeError> {
    if let Subject::Type(_) = subject {
        let has_none = operations.is_empty();
        let text = "insert/update/delete/truncate belong to a table; leave them out where a type is given";
        return if has_none { Ok(()) } else { Err(object.error(text)) };
    }
    if operations.is_empty() && !enable_manual {
        return Err(object.error("atleast one amongst insert/update/delete/enable_manual spec must be provided"));
    }
    Ok(())
}

fn check_columns(object: &Object<'_>, operations: &Operations) -> Result<(), DecodeError> {
    let is_empty = |columns: &Columns| matches!(columns, Columns::Only(names) if names.is_empty());
    for spec in [&operations.insert, &operations.update, &operations.delete].into_iter().flatten() {
        if is_empty(&spec.columns) {
            return Err(object.error("found empty column specification"));
        }
        if is_empty(&spec.payload) {
            return Err(object.error("found empty payload specification"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
