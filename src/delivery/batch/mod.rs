//! Several events in one request, and what an answer to it means for each of them. No I/O but in `request`.
//!
//! ```text
//!                 2xx, any other failure
//!   gathered ─────────────────────────────▶ each event has its own outcome
//!      │  413                  ▲
//!      │  400, and 400 again   │ one event is left, or anything but 400 and 413
//!      └──────▶ halves ────────┘
//!                 │  ▲
//!                 └──┘ 413, 400
//! ```
//!
//! The first 410 is followed by the same batch as well, at whichever stage: the second one pauses the trigger, and none
//! of its events pays. Once only, as there may be other answers in between for ever.

mod answer;
mod request;

use std::collections::{HashMap, HashSet};

pub(super) use self::answer::Refused;
pub(super) use self::request::{Ended, most_bytes, send};
use super::attempt::{self, Request};
use super::busy::Busy;
use super::retry;
use super::rows::Ready;
use crate::model::{EventId, LaneSet, Outcome, RowHash, Verdict};
use crate::queue::Settled;

/// Too large.
const TOO_LARGE: u16 = 413;
const BAD_REQUEST: u16 = 400;

/// What a batch has been through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    New,
    /// It was answered 400 once.
    Again,
    /// It is a half of one that was refused.
    Half,
}

/// Events for one request, in their order; one at least.
#[derive(Debug)]
pub(super) struct EventBatch {
    events: Vec<Ready>,
    stage: Stage,
    /// Whether it is sent once more because of a 410.
    was_gone: bool,
}

/// What follows from an answer.
#[derive(Debug)]
pub(super) enum Next {
    /// Each event has its outcome.
    Settle(EventBatch),
    /// Nothing of it counts: these are sent, and for the others it is as if they had not been.
    Anew { batches: Vec<EventBatch>, back: Vec<Ready> },
}

impl EventBatch {
    /// Puts events in the order of the log. `None` where there are none.
    pub(super) fn new(mut events: Vec<Ready>) -> Option<EventBatch> {
        // Retries stand before newer events, and those of one row in their order.
        events.sort_by_key(|ready| (ready.logged.source_id, ready.logged.seq));
        (!events.is_empty()).then_some(EventBatch { events, stage: Stage::New, was_gone: false })
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether it was not refused before, not even with others.
    pub(super) fn is_new(&self) -> bool {
        self.stage == Stage::New
    }

    /// As [`Ready::bytes`].
    pub(super) fn bytes(&self) -> usize {
        self.events.iter().map(Ready::bytes).sum()
    }

    /// The lanes of its events.
    pub(super) fn lanes(&self) -> LaneSet {
        self.events.iter().map(|ready| ready.logged.event.lane).collect()
    }

    /// What the dispatcher remembers of its events.
    pub(super) fn busy(&self) -> impl Iterator<Item = (EventId, Busy)> {
        self.events.iter().map(|ready| (ready.logged.id(), Busy::of(ready)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Drops the events of other lanes than these; there may be none left.
    pub(super) fn retain(&mut self, lanes: LaneSet) {
        self.events.retain(|ready| lanes.contains(ready.logged.event.lane));
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = EventId> {
        self.events.iter().map(|ready| ready.logged.id())
    }

    /// Stands for the batch where one event is asked for.
    pub(super) fn first_id(&self) -> EventId {
        self.events[0].logged.id()
    }

    pub(super) fn into_events(self) -> Vec<Ready> {
        self.events
    }

    /// Whether it is to be sent in another way, to find the events that it is refused for.
    pub(super) fn next(mut self, request: &Request, outcome: &Outcome) -> Next {
        if self.events.len() == 1 {
            return Next::Settle(self);
        }
        let refusal = refusal(outcome);
        let is_first_gone = retry::is_first_gone(outcome, request.was_gone, &request.endpoint.retry_conf);
        if is_first_gone && !self.was_gone {
            self.was_gone = true;
            Next::Anew { batches: vec![self], back: Vec::new() }
        } else if self.is_new() && refusal == Some(BAD_REQUEST) {
            self.stage = Stage::Again;
            Next::Anew { batches: vec![self], back: Vec::new() }
        } else if refusal.is_some() {
            self.halve()
        } else {
            Next::Settle(self)
        }
    }

    fn half(events: Vec<Ready>) -> EventBatch {
        EventBatch { events, stage: Stage::Half, was_gone: false }
    }

    /// The halves have no row in common, so neither waits for the other: what would, goes back.
    fn halve(self) -> Next {
        let mut first = self.events;
        let second = first.split_off(first.len() / 2);
        let rows: HashSet<RowHash> = first.iter().filter_map(|ready| ready.lock).collect();
        let waits = |ready: &Ready| ready.lock.is_some_and(|row| rows.contains(&row));
        let (back, second): (Vec<Ready>, Vec<Ready>) = second.into_iter().partition(waits);
        let halves = [first, second].into_iter().filter(|events| !events.is_empty());
        Next::Anew { batches: halves.map(EventBatch::half).collect(), back }
    }
}

/// The status that refuses a request for what is in it. An answer with a `Retry-After` says that it is a matter of time
/// (RFC 9110, 15.5.14), and so no such one.
fn refusal(outcome: &Outcome) -> Option<u16> {
    let Outcome::Answered(response) = outcome else { return None };
    let is_refused = matches!(response.status, BAD_REQUEST | TOO_LARGE) && response.retry_after_sec.is_none();
    is_refused.then_some(response.status)
}

/// Whether a request was too large.
pub(super) fn is_too_large(outcome: &Outcome) -> bool {
    refusal(outcome) == Some(TOO_LARGE)
}

/// Whether an event is refused though nothing else is in its request, so that it would have others refused with it.
pub(super) fn is_loner(settled: &[Settled], outcome: &Outcome) -> bool {
    refusal(outcome).is_some() && matches!(settled, [one] if one.is_waiting())
}

/// What became of a batch's events.
#[derive(Debug, Default)]
pub(super) struct Settlement {
    /// In their order. Of the events of one row one has the lock: when that is unlocked, the row is free.
    pub(super) settled: Vec<Settled>,
    /// They came behind an event that is to be sent again before them: for them it is as if they had not been sent.
    pub(super) back: Vec<Ready>,
}

/// Decides for each event by itself; `counts` as in [`Settled`]. What follows an event of its row that others wait for
/// is not settled: accepted or not, it has to come after that one.
pub(super) fn settle(
    batch: EventBatch,
    request: &Request,
    outcome: &Outcome,
    refused: &Refused,
    counts: bool,
    longest_retry_after_sec: u64,
) -> Settlement {
    let mut settlement = Settlement::default();
    // Rows with an event that comes again, and each row's event that unlocks it.
    let (mut waiting, mut locks) = (HashSet::new(), HashMap::new());
    for mut ready in batch.events {
        let row = ready.lock;
        if row.is_some_and(|row| waiting.contains(&row)) {
            settlement.back.push(ready);
            continue;
        }
        ready.lock = None;
        let mut outcome = outcome.clone();
        if let Outcome::Answered(response) = &mut outcome {
            response.refused = refused.why(ready.logged.id());
        }
        let settled = attempt::settle(ready, request, outcome, counts, longest_retry_after_sec);
        if let Some(row) = row {
            if settled.is_waiting() && settled.holds.is_some() {
                waiting.insert(row);
            }
            // A failure is recorded before anything follows it.
            let place = locks.entry(row).or_insert(settlement.settled.len());
            let before = settlement.settled.get(*place).map(|before: &Settled| before.attempt.verdict);
            if settled.attempt.verdict != Verdict::Delivered || before == Some(Verdict::Delivered) {
                *place = settlement.settled.len();
            }
        }
        settlement.settled.push(settled);
    }
    for (row, place) in locks {
        settlement.settled[place].lock = Some(row);
    }
    settlement
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(super) use tests::of_size;
