//! What to watch and where to send it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{BatchConf, Limits, OnDead, Ordering, RetryConf, Subject};

/// A trigger as the catalogue holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// Given when the trigger is created; a replacement keeps it.
    pub id: Uuid,
    /// Counts the definitions this trigger has had, from 1.
    pub version: i32,
    /// What it watches and where it sends.
    pub definition: Definition,
}

/// What a user asked for in `create_event_trigger`. Its serde form is what the catalogue stores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Unique in its source.
    pub name: String,
    /// The source (database) it watches; `default` unless named.
    pub source: String,
    /// What it watches.
    #[serde(flatten)]
    pub subject: Subject,
    /// Where events go.
    pub webhook: Webhook,
    /// Which operations on a table it watches.
    #[serde(default)]
    pub operations: Operations,
    /// Whether `invoke_event_trigger` may be used on it.
    #[serde(default)]
    pub enable_manual: bool,
    /// Sent with each request, in this order.
    #[serde(default)]
    pub headers: Vec<Header>,
    /// When to try again.
    #[serde(default)]
    pub retry_conf: RetryConf,
    /// How much may be sent at a time.
    #[serde(flatten)]
    pub limits: Limits,
    /// Whether several events go in one request, and how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchConf>,
    /// Whether an UPDATE also fires when none of its `columns` changed.
    #[serde(default)]
    pub fire_on_unchanged: bool,
    /// Whether it also fires for rows that arrived by replication from elsewhere.
    #[serde(default)]
    pub trigger_on_replication: bool,
    /// Whether the payload says in which transaction and where in it the change happened.
    #[serde(default)]
    pub transaction: bool,
    /// In which order its events go out.
    #[serde(default, skip_serializing_if = "Ordering::is_default")]
    pub ordering: Ordering,
    /// What becomes of the events that wait for a dead one.
    #[serde(default, skip_serializing_if = "OnDead::is_default")]
    pub on_dead: OnDead,
}

/// The operations a trigger watches; one that is absent is not watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operations {
    /// Rows inserted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insert: Option<OperationSpec>,
    /// Rows updated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<OperationSpec>,
    /// Rows deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<OperationSpec>,
    /// The table emptied by TRUNCATE.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncate: bool,
}

impl Operations {
    /// Whether none is watched.
    pub fn is_empty(&self) -> bool {
        *self == Operations::default()
    }
}

/// What of one operation is watched and sent (seed 003, `OperationSpec`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationSpec {
    /// For an update: fire only when one of these changed. Has no effect on the other operations, as in Hasura.
    pub columns: Columns,
    /// The columns that are sent.
    #[serde(default)]
    pub payload: Columns,
}

/// `"*"` or a list of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Columns {
    /// Every column the table has when a row changes.
    #[default]
    All,
    /// These columns only.
    Only(Vec<String>),
}

impl Columns {
    /// The names in a list; none for `"*"`.
    pub fn names(&self) -> &[String] {
        match self {
            Columns::All => &[],
            Columns::Only(names) => names,
        }
    }
}

impl Serialize for Columns {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Columns::All => serializer.serialize_str("*"),
            Columns::Only(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Star(String),
            Names(Vec<String>),
        }
        match Form::deserialize(deserializer)? {
            Form::Star(star) if star == "*" => Ok(Columns::All),
            Form::Star(_) => Err(serde::de::Error::custom("only * or [] allowed")),
            Form::Names(names) => Ok(Columns::Only(names)),
        }
    }
}

/// Where a trigger's events are sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Webhook {
    /// A URL that may hold `{{NAME}}` placeholders for environment variables.
    Url(String),
    /// The environment variable that holds the whole URL.
    FromEnv(String),
}

/// One header of a trigger's requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// As the user wrote it.
    pub name: String,
    /// Literal, or taken from the environment.
    #[serde(flatten)]
    pub value: HeaderValue,
}

/// Where a header's value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeaderValue {
    /// The text itself; may hold `{{NAME}}` placeholders.
    #[serde(rename = "value")]
    Literal(String),
    /// The environment variable that holds the value.
    #[serde(rename = "value_from_env")]
    FromEnv(String),
}
