//! The part of a trigger that capture needs.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{Operations, Ordering, TableName};

/// What to watch: the content of `walhook.trigger_version.watch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[expect(clippy::large_enum_variant, reason = "one a trigger, and nearly all are the large one")]
pub enum Watch {
    /// Changes of a table.
    Table(TableWatch),
    /// Custom events.
    Type(TypeWatch),
}

/// Custom events of one type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeWatch {
    /// The type.
    #[serde(rename = "type")]
    pub event_type: String,
}

/// What of which table to watch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableWatch {
    /// OID of the table, so that a renamed table is still the same one.
    pub relation: u32,
    /// The table's name when the trigger was made, for messages.
    pub table: TableName,
    /// Which operations fire, and what they send.
    pub operations: Operations,
    /// The columns of the primary key; empty where there is none. They tell rows apart.
    pub key_columns: Vec<String>,
    /// Whether an UPDATE also fires when none of its `columns` changed.
    #[serde(default)]
    pub fire_on_unchanged: bool,
    /// Whether changes that arrived by replication from elsewhere fire.
    #[serde(default)]
    pub trigger_on_replication: bool,
    /// In which order the events go out; where it is the trigger's, they share a lane.
    #[serde(default, skip_serializing_if = "Ordering::is_default")]
    pub ordering: Ordering,
}

/// A watch that capture has passed in the WAL.
#[derive(Clone, Debug)]
struct ActiveWatch {
    /// The definition's number.
    version: i32,
    watch: Watch,
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
                self.by_trigger.insert(trigger_id, ActiveWatch { version, watch });
            }
            None => {
                self.by_trigger.remove(&trigger_id);
            }
        }
    }

    /// The watches on a table by trigger, in the order of the triggers' ids, so that every replay goes the same way.
    pub fn on_relation(&self, relation: u32) -> Vec<(Uuid, &TableWatch)> {
        let mut found: Vec<_> = self
            .by_trigger
            .iter()
            .filter_map(|(id, active)| match &active.watch {
                Watch::Table(watch) if watch.relation == relation => Some((*id, watch)),
                _ => None,
            })
            .collect();
        found.sort_by_key(|(id, _)| *id);
        found
    }

    /// The triggers on each type of custom events, in the order of their id.
    pub fn by_type(&self) -> HashMap<&str, Vec<Uuid>> {
        let mut found: HashMap<&str, Vec<Uuid>> = HashMap::new();
        for (id, active) in &self.by_trigger {
            if let Watch::Type(watch) = &active.watch {
                found.entry(&watch.event_type).or_default().push(*id);
            }
        }
        found.values_mut().for_each(|triggers| triggers.sort_unstable());
        found
    }
}
