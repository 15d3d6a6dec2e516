//! Which deferred events of a trigger are in memory, and how many more may come. No I/O.

use std::collections::HashSet;

use crate::model::EventId;

/// Events that are due at one moment are fetched so many at a time: a page for each few would make the last ones late.
/// All triggers share the first number, because each fetch names what is in hand.
const DUE_OF_ALL: usize = 4_096;
const DUE_OF_ONE: std::ops::RangeInclusive<usize> = 64..=1_024;
/// Parked events that may come along with the one that their row waits for.
const FOLLOWING: usize = 64;

/// How much may be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Due events.
    pub(super) due: usize,
    /// Events that are parked behind these.
    pub(super) following: usize,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Hand {
    most: usize,
    due: HashSet<EventId>,
    following: HashSet<EventId>,
    /// There were more due events than room.
    wants_more: bool,
}

impl Default for Hand {
    fn default() -> Hand {
        Hand { most: *DUE_OF_ONE.start(), due: HashSet::new(), following: HashSet::new(), wants_more: false }
    }
}

impl Hand {
    /// Sets the trigger's share, by how many triggers there are.
    pub(super) fn share(&mut self, triggers: usize) {
        self.most = (DUE_OF_ALL / triggers.max(1)).clamp(*DUE_OF_ONE.start(), *DUE_OF_ONE.end());
    }

    /// Nothing is in memory any more.
    pub(super) fn clear(&mut self) {
        (self.due, self.following, self.wants_more) = (HashSet::new(), HashSet::new(), false);
    }

    /// How many more it takes.
    pub(super) fn room(&self) -> Room {
        let due = self.most.saturating_sub(self.due.len());
        Room { due, following: FOLLOWING.saturating_sub(self.following.len()) }
    }

    /// Takes an event that was fetched. False where it has it already.
    pub(super) fn take(&mut self, event: EventId, follows: bool) -> bool {
        if follows { self.following.insert(event) } else { self.due.insert(event) }
    }

    /// An event is settled, or is left to be fetched again.
    pub(super) fn put_back(&mut self, event: EventId) {
        if !self.due.remove(&event) {
            self.following.remove(&event);
        }
    }

    /// All of them, which must not be fetched again.
    pub(super) fn events(&self) -> impl Iterator<Item = EventId> {
        self.due.iter().chain(&self.following).copied()
    }

    /// Whether it has this event.
    pub(super) fn has(&self, event: EventId) -> bool {
        self.due.contains(&event) || self.following.contains(&event)
    }

    /// A fetch gave as much as was asked for, or less.
    pub(super) fn was_filled(&mut self, filled: bool) {
        self.wants_more = filled;
    }

    /// Whether it is time for the rest of what was due: there is room for a page that is worth a fetch, or nothing of
    /// the last one is left to be sent.
    pub(super) fn wants_more(&self, left_to_send: usize) -> bool {
        let room = self.room().due;
        self.wants_more && (room >= self.most / 2 || (room > 0 && left_to_send == 0))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> EventId {
        Uuid::from_u128(number)
    }

    #[test]
    fn the_rest_is_fetched_when_half_is_free_or_nothing_is_left_to_send() {
        let mut hand = Hand::default();
        hand.share(1);
        assert_eq!(hand.room(), Room { due: 1_024, following: 64 });
        assert!((0..1_024).all(|number| hand.take(id(number), false)));
        assert!(!hand.take(id(3), false), "in hand already");
        hand.was_filled(true);
        assert!(!hand.wants_more(0), "no room");
        hand.put_back(id(0));
        assert!(!hand.wants_more(900) && hand.wants_more(0));
        (1..512).for_each(|number| hand.put_back(id(number)));
        assert!(hand.wants_more(500));
        hand.was_filled(false);
        assert!(!hand.wants_more(0), "that was all");
    }

    #[test]
    fn what_follows_takes_no_room_of_what_is_due() {
        let mut hand = Hand::default();
        hand.share(1_000);
        assert!((0..64).all(|number| hand.take(id(number), true)));
        assert_eq!(hand.room(), Room { due: 64, following: 0 });
        assert!(hand.take(id(100), false) && hand.has(id(1)) && hand.has(id(100)));
        hand.put_back(id(1));
        assert_eq!((hand.room().following, hand.events().count(), hand.has(id(1))), (1, 64, false));
    }
}
