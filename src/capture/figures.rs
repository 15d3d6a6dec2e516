//! What came of a source's capture since this process began, for whoever watches it.

use crate::model::{Lsn, Timestamp};
use crate::queue::{Logged, SlotStatus};

/// Told once an append is committed, so counting costs an event next to nothing.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Events that are durable in the queue.
    pub events: u64,
    /// Transactions that had any.
    pub transactions: u64,
    /// The last of these.
    pub last: Option<Captured>,
    /// The slot as it was seen last; `None` while this node does not read it.
    pub slot: Option<SlotStatus>,
}

/// A transaction whose events are durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured {
    /// When it committed, by the source's clock.
    pub committed_at: Timestamp,
    /// How long after that its events were durable, in microseconds, by the clock of the queue's server.
    pub delay_micros: u64,
}

/// Events that were appended and wait for their commit.
#[derive(Debug, Default)]
pub(super) struct Counting {
    events: u64,
    transactions: u64,
    last: Option<(Lsn, Timestamp)>,
}

impl Counting {
    /// The parts of one transaction may come in several appends.
    pub(super) fn appended(&mut self, events: &[Logged]) {
        self.events += events.len() as u64;
        for Logged { event, .. } in events {
            let commit_lsn = event.position.commit_lsn;
            if self.last.is_none_or(|(last, _)| last != commit_lsn) {
                self.transactions += 1;
                self.last = Some((commit_lsn, event.committed_at));
            }
        }
    }

    /// All of it is durable now.
    pub(super) fn committed(&mut self, figures: &mut Figures, now: Timestamp) {
        let Counting { events, transactions, last } = std::mem::take(self);
        figures.events += events;
        figures.transactions += transactions;
        if let Some((_, committed_at)) = last {
            let delay_micros = u64::try_from(now.0.saturating_sub(committed_at.0)).unwrap_or(0);
            figures.last = Some(Captured { committed_at, delay_micros });
        }
    }
}
