//! The part of a trigger that capture needs.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

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
    /// Whether an UPDATE also fires when none of its `columns` changed.
    #[serde(default)]
    pub fire_on_unchanged: bool,
    /// Whether changes that arrived by replication from elsewhere fire.
    #[serde(default)]
    pub trigger_on_replication: bool,
}

/// A watch that capture has passed in the WAL.
#[derive(Clone, Debug)]
pub struct ActiveWatch {
    /// The trigger.
    pub trigger_id: Uuid,
    /// Its definition's number.
    pub version: i32,
    /// What to watch.
    pub watch: Arc<Watch>,
}

/// All watches that are active at the place in the WAL where capture is.
#[derive(Clone, Debug, Default)]
pub struct Watches {
    by_trigger: HashMap<Uuid, ActiveWatch>,
}

impl Watches {
    /// Puts a version into force; `None` ends the trigger. An older version than the one in force changes nothing, so
    /// applying a version twice is harmless.
    pub fn activate(&mut self, trigger_id: Uuid, version: i32, watch: Option<Watch>) {
        if self.by_trigger.get(&trigger_id).is_some_and(|active| active.version >= version) {
            return;
        }
        match watch {
            Some(watch) => {
                self.by_trigger.insert(trigger_id, ActiveWatch { trigger_id, version, watch: Arc::new(watch) });
            }
            None => {
                self.by_trigger.remove(&trigger_id);
            }
        }
    }

    /// The watches on a table, in the order of their trigger's id, so that every replay goes the same way.
    pub fn on_relation(&self, relation: u32) -> Vec<ActiveWatch> {
        let mut found: Vec<_> =
            self.by_trigger.values().filter(|active| active.watch.relation == relation).cloned().collect();
        found.sort_by_key(|active| active.trigger_id);
        found
    }
}
