//! What comes from the feed: events handed over in memory, and news of the log's end.

use std::iter::Peekable;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::Dispatcher;
use crate::delivery::trigger_queue::TriggerQueue;
use crate::model::Timestamp;
use crate::queue::{FeedItem, Handover, Logged, Room};

/// How long a hand-over waits at most for a trigger that has no room.
const LONGEST_HOLD: Duration = Duration::from_millis(200);
/// What each of its events adds to that, so that waiting never slows a stream of small hand-overs below 5,000 events/s.
const HOLD_OF_AN_EVENT: Duration = Duration::from_micros(200);
/// A trigger that had an event this lately, and has none now, is taken to wait for its next one.
const LATELY: Duration = Duration::from_secs(1);

/// A hand-over that is being taken. While one waits for room the feed is not asked for more, which slows capture down
/// to what is delivered: an event that is left to the log instead costs a read of it.
pub(super) struct Held {
    events: Peekable<std::vec::IntoIter<Logged>>,
    since: Instant,
    pub(super) until: Instant,
    _room: Room,
}

impl Dispatcher {
    pub(super) fn on_feed(&mut self, item: FeedItem) {
        match item {
            FeedItem::Heads(heads) => heads.into_iter().for_each(|(source_id, head)| self.on_head(source_id, head)),
            FeedItem::Handover(Handover { events, room }) => {
                let Some((source_id, first)) = events.first().map(|logged| (logged.source_id, logged.seq)) else {
                    return;
                };
                if first > self.heads.of(source_id) + 1 {
                    self.on_head(source_id, first - 1);
                }
                let hold = HOLD_OF_AN_EVENT * u32::try_from(events.len()).unwrap_or(u32::MAX);
                let since = Instant::now();
                let until = self.starts_until.unwrap_or(since + hold.min(LONGEST_HOLD));
                self.held = Some(Held { events: events.into_iter().peekable(), since, until, _room: room });
            }
        }
    }

    /// Offers what is held to its triggers, until one is met that is worth waiting for.
    pub(super) fn take_held(&mut self) {
        let Some(mut held) = self.held.take() else { return };
        if self.starts_until.is_some_and(|until| Instant::now() < until) {
            self.held = Some(held);
            return;
        }
        while let Some(logged) = held.events.peek() {
            let (deliver_at, is_taken) = (logged.event.deliver_at, self.lanes.take(logged.event.lane));
            if deliver_at.is_none() && is_taken && self.is_worth_waiting_for(logged.event.trigger_id, held.until) {
                self.held = Some(held);
                return;
            }
            let Some(logged) = held.events.next() else { return };
            match deliver_at {
                None => self.offer(logged, held.since),
                Some(at) => self.note_scheduled(&logged, at),
            }
        }
    }

    /// Whether a trigger keeps up but for a moment, and nobody else is kept from its events by waiting for it.
    fn is_worth_waiting_for(&self, id: Uuid, until: Instant) -> bool {
        if !self.triggers.get(&id).is_some_and(|queue| queue.is_short_of_room(self.heads.of(queue.source_id))) {
            return false;
        }
        let now = Instant::now();
        let waits = |queue: &TriggerQueue| queue.had_event_at().is_some_and(|at| now - at < LATELY) && queue.is_idle();
        now < until && !self.triggers.values().any(waits)
    }

    fn offer(&mut self, logged: Logged, at: Instant) {
        // The same events come again after a capture that restarted.
        if logged.seq <= self.heads.of(logged.source_id) {
            return;
        }
        self.heads.0.insert(logged.source_id, logged.seq);
        let id = logged.event.trigger_id;
        if !self.lanes.take(logged.event.lane) {
            return;
        }
        let Some(queue) = self.triggers.get_mut(&id) else { return };
        queue.offer(logged, at);
        self.look_for_reads |= !queue.is_live();
        if queue.can_send() {
            self.give_turn(id);
        }
    }

    /// An event that waits in `deferred` for this time: there it is found again.
    fn note_scheduled(&mut self, logged: &Logged, at: Timestamp) {
        if logged.seq > self.heads.of(logged.source_id) {
            self.heads.0.insert(logged.source_id, logged.seq);
        }
        self.look_for_due_at(at);
    }

    /// A source's log ends here, and nobody told what lies between.
    pub(super) fn on_head(&mut self, source_id: i16, head: i64) {
        let known = self.heads.of(source_id);
        if head > known {
            let of_source = self.triggers.values_mut().filter(|queue| queue.source_id == source_id);
            of_source.for_each(|queue| queue.missed(known));
            self.look_for_reads = true;
            self.heads.0.insert(source_id, head);
        }
    }
}
