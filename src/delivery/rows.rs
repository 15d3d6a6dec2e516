//! What waits in memory to be sent, and which event may go next. Two requests of one row are never under way at a time,
//! and a row's events go in the order of the log. No I/O.
//!
//! A row is *busy* from the start of a request until its event was accepted, or until a failure is durably recorded. It
//! is *held* while an event of it that others wait for is in `deferred`; what comes from the log for it then is to be
//! parked there as well, so that it stands in nobody's way.

mod gather;

use std::collections::{HashMap, VecDeque};

pub(super) use self::gather::Full;
use self::gather::Gathering;
use crate::model::{Event, EventId, Ordering, RowHash, WHOLE_TRIGGER};
use crate::queue::{Deferred, Logged, Parked, RowVersion};

/// An event beside its row text, in bytes.
pub(super) const EVENT_BYTES: usize = 256;

/// An event that is to be sent.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) logged: Logged,
    /// Attempts already made in this round.
    pub(super) number: u32,
    /// For one that came from `deferred`.
    pub(super) version: Option<RowVersion>,
    /// Whose later events wait for it.
    pub(super) holds: Option<RowHash>,
    /// The row that is busy with it.
    pub(super) lock: Option<RowHash>,
}

impl Ready {
    /// Whether it came from `deferred`.
    pub(super) fn is_deferred(&self) -> bool {
        self.version.is_some()
    }

    /// What it takes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.logged.event.size() + EVENT_BYTES
    }
}

/// A row that is not free.
#[derive(Debug, Default)]
struct Row {
    busy: Option<EventId>,
    held: bool,
    /// Whether what it is busy with waits for the rest of its batch.
    gathered: bool,
    /// Deferred ones first, then those from the log in its order.
    waiting: VecDeque<Ready>,
}

/// See the module's description. Rows are those of one trigger; [`WHOLE_TRIGGER`] is a row that all events are of.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// From the log, in its order.
    fresh: VecDeque<Ready>,
    /// From `deferred`, and events whose row is busy with them already because their turn has come.
    again: VecDeque<Ready>,
    /// Whether `again` is to be looked at first.
    again_first: bool,
    rows: HashMap<RowHash, Row>,
    /// Whether the row of all events is among them.
    whole: bool,
    busy: usize,
    held: usize,
    /// Events in `rows`.
    waiting: usize,
    bytes: usize,
    /// Held rows that may have events to be parked.
    to_park: Vec<RowHash>,
    /// Where events go several in a request; empty elsewhere.
    gathering: Gathering,
}

impl Rows {
    /// How many events are in memory and not under way.
    pub(super) fn len(&self) -> usize {
        self.fresh.len() + self.again.len() + self.waiting + self.gathering.len()
    }

    /// Their size, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many rows are held.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Takes the next event of the log.
    pub(super) fn push_fresh(&mut self, logged: Logged) {
        let ready = Ready { logged, number: 0, version: None, holds: None, lock: None };
        self.bytes += ready.bytes();
        self.fresh.push_back(ready);
    }

    /// Takes a deferred event that is due.
    pub(super) fn push_deferred(&mut self, deferred: Deferred) {
        let Deferred { logged, number, holds, version, .. } = deferred;
        let ready = Ready { logged, number, version: Some(version), holds, lock: None };
        self.bytes += ready.bytes();
        self.again.push_back(ready);
    }

    /// Whether there is an event to look at. It may turn out that its row is not free.
    pub(super) fn can_go(&self, ordering: Ordering) -> bool {
        self.again_can_go(ordering) || self.fresh_can_go(ordering) || !self.gathering.is_empty()
    }

    fn again_can_go(&self, ordering: Ordering) -> bool {
        match self.waits_for_turns(ordering) {
            true => self.again.iter().any(|ready| ready.lock.is_some()),
            false => !self.again.is_empty(),
        }
    }

    /// Whether only those of `again` may go whose row is busy with them.
    fn waits_for_turns(&self, ordering: Ordering) -> bool {
        ordering == Ordering::Trigger && self.busy > 0
    }

    /// Puts first the one that may go while others have to wait for it: it may stand behind them, where it came when
    /// its turn did.
    fn bring_turn_forward(&mut self, ordering: Ordering) {
        if self.waits_for_turns(ordering)
            && let Some(place) = self.again.iter().position(|ready| ready.lock.is_some()).filter(|place| *place > 0)
            && let Some(ready) = self.again.remove(place)
        {
            self.again.push_front(ready);
        }
    }

    /// Whether there are events from the log that were not looked at.
    pub(super) fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    fn fresh_can_go(&self, ordering: Ordering) -> bool {
        let free = match ordering {
            Ordering::None => true,
            // The whole trigger can be held under `row`, too: from before it was replaced.
            Ordering::Row => !self.whole,
            Ordering::Trigger => self.rows.is_empty(),
        };
        free && !self.fresh.is_empty()
    }

    /// The next event whose row is free; the row is busy with it from now on. Events of rows that are not free are put
    /// behind what they wait for.
    pub(super) fn next(&mut self, ordering: Ordering) -> Option<Ready> {
        loop {
            self.bring_turn_forward(ordering);
            let again = self.again_can_go(ordering);
            // In turn, so that neither keeps the other waiting.
            let ready = if again && (self.again_first || !self.fresh_can_go(ordering)) {
                self.again.pop_front()
            } else if self.fresh_can_go(ordering) {
                self.fresh.pop_front()
            } else {
                None
            }?;
            self.again_first = !ready.is_deferred();
            if let Some(ready) = self.admit(ready, ordering) {
                self.bytes -= ready.bytes();
                return Some(ready);
            }
        }
    }

    fn admit(&mut self, mut ready: Ready, ordering: Ordering) -> Option<Ready> {
        if ready.lock.is_some() {
            return Some(ready);
        }
        let Some(key) = ordering.key(ready.logged.event.row_hash) else { return Some(ready) };
        self.whole |= key == WHOLE_TRIGGER;
        let row = self.rows.entry(key).or_default();
        if !ready.is_deferred() {
            ready.holds = Some(key);
        }
        // What is sent again waits for requests only: it has its time, or is out of order anyway.
        if row.busy.is_none() && (ready.is_deferred() || !row.held) {
            row.busy = Some(ready.logged.id());
            self.busy += 1;
            ready.lock = Some(key);
            return Some(ready);
        }
        self.waiting += 1;
        if ready.is_deferred() {
            let place = row.waiting.partition_point(|before| before.is_deferred());
            row.waiting.insert(place, ready);
        } else {
            row.waiting.push_back(ready);
            if row.held {
                self.to_park.push(key);
            }
        }
        None
    }

    /// A request of this event is under way already.
    pub(super) fn lock(&mut self, key: RowHash, event: EventId) {
        self.whole |= key == WHOLE_TRIGGER;
        let row = self.rows.entry(key).or_default();
        self.busy += usize::from(row.busy.replace(event).is_none());
    }

    /// The request of this event is over, and what came of it cannot be forgotten.
    pub(super) fn unlock(&mut self, key: RowHash, event: EventId) {
        let Some(row) = self.rows.get_mut(&key) else { return };
        // Another one's: of a time when the lanes were not ours.
        if row.busy != Some(event) {
            return;
        }
        row.busy = None;
        self.busy -= 1;
        self.pass_on(key);
    }

    /// An event of this row is in `deferred`, and later ones wait for it.
    pub(super) fn hold(&mut self, key: RowHash) {
        self.whole |= key == WHOLE_TRIGGER;
        let row = self.rows.entry(key).or_default();
        if !std::mem::replace(&mut row.held, true) {
            self.held += 1;
            self.to_park.push(key);
        }
    }

    /// No event of this row is in `deferred` any more that others wait for.
    pub(super) fn free(&mut self, key: RowHash) {
        let Some(row) = self.rows.get_mut(&key) else { return };
        if std::mem::take(&mut row.held) {
            self.held -= 1;
            self.pass_on(key);
        }
    }

    /// Gives a row that is not busy to the first that waits for it, or forgets the row.
    fn pass_on(&mut self, key: RowHash) {
        let Some(row) = self.rows.get_mut(&key).filter(|row| row.busy.is_none()) else { return };
        let held = row.held;
        let may_go = row.waiting.front().is_some_and(|first| first.is_deferred() || !held);
        let first = if may_go { row.waiting.pop_front() } else { None };
        if let Some(mut ready) = first {
            row.busy = Some(ready.logged.id());
            ready.lock = Some(key);
            self.busy += 1;
            self.waiting -= 1;
            self.again.push_back(ready);
        } else if !held {
            self.rows.remove(&key);
            self.whole &= key != WHOLE_TRIGGER;
        }
    }

    /// What is behind an event of this row that failed leaves the memory: it is parked in the database. Gives them.
    pub(super) fn drop_behind(&mut self, key: RowHash) -> Vec<EventId> {
        let mut dropped = Vec::new();
        let mut keep = |ready: &Ready| {
            let is_behind = ready.is_deferred() && ready.holds == Some(key) && ready.lock.is_none();
            if is_behind {
                dropped.push((ready.logged.id(), ready.bytes()));
            }
            !is_behind
        };
        self.again.retain(&mut keep);
        // They wait for the whole trigger where its ordering was replaced meanwhile.
        for place in [key, WHOLE_TRIGGER] {
            let Some(row) = self.rows.get_mut(&place) else { continue };
            let before = row.waiting.len();
            row.waiting.retain(&mut keep);
            self.waiting -= before - row.waiting.len();
        }
        self.bytes -= dropped.iter().map(|(_, bytes)| bytes).sum::<usize>();
        dropped.into_iter().map(|(event, _)| event).collect()
    }

    /// Whether there may be events to be parked.
    pub(super) fn wants_to_park(&self) -> bool {
        !self.to_park.is_empty()
    }

    /// Takes the events from the log that wait in held rows, in its order.
    pub(super) fn take_parked(&mut self) -> Vec<Parked> {
        let mut parked = Vec::new();
        for key in std::mem::take(&mut self.to_park) {
            let Some(row) = self.rows.get_mut(&key).filter(|row| row.held) else { continue };
            let deferred = row.waiting.iter().take_while(|ready| ready.is_deferred()).count();
            for ready in row.waiting.drain(deferred..) {
                self.waiting -= 1;
                self.bytes -= ready.bytes();
                let Logged { seq, source_id, event, .. } = ready.logged;
                let Event { id: event_id, trigger_id, lane, committed_at, .. } = event;
                parked.push(Parked { event_id, trigger_id, source_id, seq, lane, committed_at, row: key });
            }
        }
        parked
    }
}

#[cfg(test)]
mod tests;
