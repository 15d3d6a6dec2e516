//! Several events in one request.

use serde::{Deserialize, Serialize};

/// When a trigger's events are sent together, as a JSON array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchConf {
    /// The most events in a request.
    pub max_events: u32,
    /// How long a batch that is not full waits for more, in milliseconds.
    pub max_wait_ms: u32,
    /// The most bytes of a request's body; a single event may have more.
    pub max_bytes: u32,
}

impl BatchConf {
    /// The most that may be asked for: what is in memory of a trigger is bounded.
    pub const MOST_EVENTS: u32 = 1_000;
    /// As [`BatchConf::MOST_EVENTS`], in milliseconds.
    pub const LONGEST_WAIT_MS: u32 = 60_000;
    /// As [`BatchConf::MOST_EVENTS`].
    pub const MOST_BYTES: u32 = 2 << 20;
    /// Below this, hardly any event would fit in beside another.
    pub const FEWEST_BYTES: u32 = 1 << 10;
    /// Where nothing is said, in milliseconds.
    pub const DEFAULT_WAIT_MS: u32 = 100;
    /// Where nothing is said: what a proxy such as nginx lets through unless it is told to let through more.
    pub const DEFAULT_BYTES: u32 = 1 << 20;
}
