//! The part of a trigger that capture needs.

use serde::{Deserialize, Serialize};

use crate::model::{Operations, TableName};

/// What of which table to watch: the content of `walhook.trigger_version.watch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// OID of the table, so that a renamed table is still the same one.
    pub relation: u32,
    /// The table's name when the trigger was made, for messages.
    pub table: TableName,
    /// Which operations fire, and what they send.
    pub operations: Operations,
    /// The columns of the primary key; empty where there is none. They choose an event's lane.
    pub key_columns: Vec<String>,
}
