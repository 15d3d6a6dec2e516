//! How a trigger gets its events from the log.

use crate::queue::Logged;

/// One that is behind the log's end by no more is waited for until it has caught up: after a stall, as a slow commit
/// makes one, it would else go on reading from the log for as long as there is more to come.
pub(super) const REACH: i64 = 65_536;

/// How the trigger gets its events from the log.
#[derive(Debug)]
pub(super) enum Intake {
    /// Everything up to the log's end was taken; new events come from the feed.
    Live,
    /// There may be events after `taken_to` that were not taken.
    Behind,
    /// They are being read. What the feed brings meanwhile is kept in order behind them, unless it became too much.
    Reading { up_to: i64, tail: Option<Tail> },
}

/// Events from the feed that come after what is being read.
#[derive(Debug, Default)]
pub(super) struct Tail {
    pub(super) events: Vec<Logged>,
    pub(super) bytes: usize,
}

impl Tail {
    /// Whether it holds so many bytes or events.
    pub(super) fn is_full(&self, bytes: usize, events: usize) -> bool {
        self.bytes >= bytes || self.events.len() >= events
    }
}
