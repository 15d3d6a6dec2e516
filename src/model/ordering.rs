//! In which order a trigger's events go out.

use serde::{Deserialize, Serialize};

use super::RowHash;

/// Which events wait for the ones before them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ordering {
    /// Those of the same row.
    #[default]
    Row,
    /// None.
    None,
    /// All of the trigger.
    Trigger,
}

/// Stands for all events of a trigger where a row's hash would stand for that row's.
pub const WHOLE_TRIGGER: RowHash = 0;

impl Ordering {
    /// What an event of this row shares with those it waits for; `None` where it waits for nothing.
    pub fn key(self, row: Option<RowHash>) -> Option<RowHash> {
        match self {
            Ordering::Row => row,
            Ordering::None => None,
            Ordering::Trigger => Some(WHOLE_TRIGGER),
        }
    }

    /// Whether it is what a trigger has that says nothing.
    pub fn is_default(&self) -> bool {
        *self == Ordering::default()
    }
}

/// What becomes of the events that wait for one whose retries are used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDead {
    /// They go on without it.
    #[default]
    Continue,
    /// They wait until it was redelivered or skipped.
    Hold,
}

impl OnDead {
    /// Whether it is what a trigger has that says nothing.
    pub fn is_default(&self) -> bool {
        *self == OnDead::default()
    }
}
