//! What an event is about.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::TableName;

/// The longest name of an event type, in bytes.
pub const EVENT_TYPE_LIMIT: usize = 255;

/// What a trigger watches. In JSON one of two keys: `"table": {…}` or `"type": "…"`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Subject {
    /// Changes of a table.
    #[serde(rename = "table")]
    Table(TableName),
    /// Custom events of this type, which writers make with `walhook.emit`.
    #[serde(rename = "type")]
    Type(String),
}

impl Subject {
    /// The table, if it is one.
    pub fn table(&self) -> Option<&TableName> {
        match self {
            Subject::Table(table) => Some(table),
            Subject::Type(_) => None,
        }
    }

    /// The type of custom events, if it is one.
    pub fn event_type(&self) -> Option<&str> {
        match self {
            Subject::Table(_) => None,
            Subject::Type(name) => Some(name),
        }
    }
}

/// For messages: `table "users"`, `event type "order.paid"`.
impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Table(table) => write!(out, "table \"{table}\""),
            Subject::Type(name) => write!(out, "event type \"{name}\""),
        }
    }
}
