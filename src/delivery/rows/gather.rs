//! Several events for one request. A row whose events are gathered is busy with all of them, from the first one on: so
//! they stand in a batch in their order, and what comes after them waits as behind a single event.

use std::collections::{HashSet, VecDeque};

use tokio::time::Instant;

use super::{Ready, Rows};
use crate::delivery::batch::EventBatch;
use crate::model::{EventId, Ordering, RowHash, WHOLE_TRIGGER};

/// Beyond so many, it is found out anew which of them are refused alone.
const MAX_LONERS: usize = 1_024;

/// A batch that is not full yet, and those that were sent already and are to be sent in another way.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    events: Vec<Ready>,
    /// The most bytes that they come to in a request.
    bytes: usize,
    /// Since when the first of them has waited.
    since: Option<Instant>,
    /// One had no room: a smaller one that comes behind it must not be sent before it.
    closed: bool,
    anew: VecDeque<EventBatch>,
    /// Events in `anew`.
    events_anew: usize,
    /// Events whose request was refused though nothing else was in it: others are not to be refused with them.
    loners: HashSet<EventId>,
}

impl Gathering {
    pub(super) fn len(&self) -> usize {
        self.events.len() + self.events_anew
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.anew.is_empty()
    }

    fn is_loner(&self, ready: &Ready) -> bool {
        !self.loners.is_empty() && self.loners.contains(&ready.logged.id())
    }

    fn is_full(&self, full: Full) -> bool {
        let has_loner = self.events.first().is_some_and(|first| self.is_loner(first));
        self.closed || self.events.len() >= full.events || self.bytes >= full.bytes || has_loner
    }

    /// Whether this event goes along. Where it does not, nothing more does.
    fn has_room_for(&mut self, ready: &Ready, bytes: usize, full: Full) -> bool {
        let fits = self.bytes + bytes <= full.bytes && !self.is_loner(ready);
        let has_room = self.events.is_empty() || (fits && !self.is_full(full));
        self.closed |= !has_room;
        has_room
    }

    fn push(&mut self, ready: Ready, bytes: usize, now: Instant) {
        self.since.get_or_insert(now);
        self.bytes += bytes;
        self.events.push(ready);
    }
}

/// When a batch is full.
#[derive(Clone, Copy, Debug)]
pub(in crate::delivery) struct Full {
    pub(in crate::delivery) events: usize,
    /// Of a request's body.
    pub(in crate::delivery) bytes: usize,
}

impl Rows {
    /// Gathers what may go until the batch is full; gives whether it is. `size` is the most that an event takes of a
    /// body.
    pub(in crate::delivery) fn gather(
        &mut self,
        ordering: Ordering,
        full: Full,
        now: Instant,
        size: impl Fn(&Ready) -> usize,
    ) -> bool {
        while !self.gathering.is_full(full) {
            self.bring_turn_forward(ordering);
            let Some(from_again) = self.looks_at_again(ordering) else { break };
            let queue = if from_again { &mut self.again } else { &mut self.fresh };
            let Some(first) = queue.front() else { break };
            let bytes = size(first);
            if !self.gathering.has_room_for(first, bytes, full) {
                return true;
            }
            let Some(ready) = queue.pop_front() else { break };
            self.again_first = !ready.is_deferred();
            let Some(ready) = self.join(ready, ordering) else { continue };
            let row = ready.lock;
            self.gathering.push(ready, bytes, now);
            if row.is_some_and(|row| self.gather_row(row, full, now, &size)) {
                return true;
            }
        }
        if self.gathering.events.is_empty() {
            self.gathering.since = None;
        }
        // While a whole trigger waits for an event, nothing can go with that.
        let is_complete = self.rows.get(&WHOLE_TRIGGER).is_some_and(|row| row.gathered && row.held);
        self.gathering.is_full(full) || is_complete
    }

    /// Whether the next event to look at is in `again`, and not in `fresh`; `None` where nothing may go.
    fn looks_at_again(&self, ordering: Ordering) -> Option<bool> {
        let whole = self.rows.get(&WHOLE_TRIGGER).filter(|row| ordering == Ordering::Trigger && row.gathered);
        let (again, fresh) = match whole {
            Some(row) => (!self.again.is_empty(), !self.fresh.is_empty() && !row.held && self.rows.len() == 1),
            None => (self.again_can_go(ordering), self.fresh_can_go(ordering)),
        };
        // In turn, so that neither keeps the other waiting.
        (again || fresh).then_some(again && (self.again_first || !fresh))
    }

    /// Gives the event back if its row is free or its events are those that are gathered.
    fn join(&mut self, mut ready: Ready, ordering: Ordering) -> Option<Ready> {
        let key = ordering.key(ready.logged.event.row_hash);
        let row = key.filter(|_| ready.lock.is_none()).and_then(|key| self.rows.get(&key));
        if row.is_some_and(|row| row.gathered && (ready.is_deferred() || !row.held)) {
            if !ready.is_deferred() {
                ready.holds = key;
            }
            ready.lock = key;
            return Some(ready);
        }
        let ready = self.admit(ready, ordering)?;
        if let Some(row) = ready.lock.and_then(|key| self.rows.get_mut(&key)) {
            row.gathered = true;
        }
        Some(ready)
    }

    /// What waits in this row goes along. Gives whether the batch had no room for all of it.
    fn gather_row(&mut self, key: RowHash, full: Full, now: Instant, size: &impl Fn(&Ready) -> usize) -> bool {
        let Some(row) = self.rows.get_mut(&key) else { return false };
        while let Some(first) = row.waiting.front().filter(|first| first.is_deferred() || !row.held) {
            let bytes = size(first);
            if !self.gathering.has_room_for(first, bytes, full) {
                return true;
            }
            let Some(mut ready) = row.waiting.pop_front() else { return false };
            self.waiting -= 1;
            ready.lock = Some(key);
            self.gathering.push(ready, bytes, now);
        }
        false
    }

    /// Since when the first of those that are gathered has waited; `None` where nothing is gathered.
    pub(in crate::delivery) fn gathered_since(&self) -> Option<Instant> {
        self.gathering.since.filter(|_| !self.gathering.events.is_empty())
    }

    /// What is in memory and not gathered has waited since then, for a request that ended now.
    pub(in crate::delivery) fn has_waited_since(&mut self, at: Instant) {
        if self.gathering.events.is_empty() && self.len() > self.gathering.len() {
            self.gathering.since = Some(at);
        }
    }

    /// Whether there are events that were in a batch and are to be sent in another way.
    pub(in crate::delivery) fn has_batch_anew(&self) -> bool {
        !self.gathering.anew.is_empty()
    }

    /// The next batch to send: one that is to be sent in another way, else what is gathered. Its rows stay busy.
    pub(in crate::delivery) fn take_batch(&mut self) -> Option<EventBatch> {
        let batch = match self.gathering.anew.pop_front() {
            Some(batch) => {
                self.gathering.events_anew -= batch.len();
                batch
            }
            None => EventBatch::new(self.take_gathered())?,
        };
        self.bytes -= batch.bytes();
        Some(batch)
    }

    fn take_gathered(&mut self) -> Vec<Ready> {
        (self.gathering.bytes, self.gathering.since, self.gathering.closed) = (0, None, false);
        let events = std::mem::take(&mut self.gathering.events);
        for key in events.iter().filter_map(|ready| ready.lock) {
            if let Some(row) = self.rows.get_mut(&key) {
                row.gathered = false;
            }
        }
        events
    }

    /// These are to be sent before anything else, in their order. Their rows have been busy with them all the while.
    pub(in crate::delivery) fn send_anew(&mut self, batches: impl DoubleEndedIterator<Item = EventBatch>) {
        for batch in batches.rev() {
            self.bytes += batch.bytes();
            self.gathering.events_anew += batch.len();
            self.gathering.anew.push_front(batch);
        }
    }

    /// Takes back events of batches, in their order: they come before all that is newer. Those of a row wait in it, and
    /// it stays as it is; but those of a whole trigger wait where they were, before the others.
    pub(in crate::delivery) fn put_back(&mut self, events: Vec<Ready>) {
        for mut ready in events.into_iter().rev() {
            self.bytes += ready.bytes();
            let key = ready.lock.take().filter(|key| ready.is_deferred() || *key != WHOLE_TRIGGER);
            match key.and_then(|key| Some((key, self.rows.get_mut(&key)?))) {
                Some((key, row)) => {
                    let place = row.waiting.partition_point(|before| before.is_deferred() && !ready.is_deferred());
                    row.waiting.insert(place, ready);
                    self.waiting += 1;
                    if row.held {
                        self.to_park.push(key);
                    }
                }
                None if ready.is_deferred() => self.again.push_front(ready),
                None => self.fresh.push_front(ready),
            }
        }
    }

    /// Nothing is gathered any more: each event waits by itself, as it would where no batches are sent.
    pub(in crate::delivery) fn scatter(&mut self) {
        if self.gathering.is_empty() {
            return;
        }
        let gathered = self.take_gathered();
        self.bytes -= gathered.iter().map(Ready::bytes).sum::<usize>();
        let mut events = Vec::new();
        while let Some(batch) = self.gathering.anew.pop_front() {
            self.bytes -= batch.bytes();
            events.extend(batch.into_events());
        }
        self.gathering.events_anew = 0;
        events.extend(gathered);
        let rows: HashSet<RowHash> = events.iter().filter_map(|ready| ready.lock).collect();
        self.put_back(events);
        for key in rows {
            if let Some(row) = self.rows.get_mut(&key) {
                self.busy -= usize::from(row.busy.take().is_some());
                self.pass_on(key);
            }
        }
    }

    /// The row is busy with this event of a batch alone from now on.
    pub(in crate::delivery) fn pass_lock(&mut self, key: RowHash, event: EventId) {
        if let Some(row) = self.rows.get_mut(&key).filter(|row| row.busy.is_some()) {
            row.busy = Some(event);
        }
    }

    /// Whether an event is to be sent alone.
    pub(in crate::delivery) fn set_loner(&mut self, event: EventId, is_loner: bool) {
        let loners = &mut self.gathering.loners;
        if !is_loner {
            loners.remove(&event);
            return;
        }
        if loners.len() >= MAX_LONERS {
            loners.clear();
        }
        loners.insert(event);
    }
}
