//! Which events of a trigger are under way, and how far its cursors may move.

use std::collections::VecDeque;

use crate::model::{LANES, Lane};

/// The events of one trigger that were taken from the log and are not yet done, by lane and in the order of the log.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    lanes: [VecDeque<Entry>; LANES as usize],
    outstanding: usize,
}

#[derive(Debug)]
struct Entry {
    seq: i64,
    done: bool,
}

impl Tracker {
    /// Notes an event that was taken. A lane's events are taken in the order of the log, but for what was under way
    /// when the log was begun anew.
    pub(super) fn start(&mut self, lane: Lane, seq: i64) {
        let entries = &mut self.lanes[usize::from(lane % LANES)];
        let entry = Entry { seq, done: false };
        match entries.back() {
            Some(last) if last.seq > seq => {
                let place = entries.partition_point(|entry| entry.seq < seq);
                entries.insert(place, entry);
            }
            _ => entries.push_back(entry),
        }
        self.outstanding += 1;
    }

    /// Notes that an event is durably done or deferred. One that was not started here changes nothing.
    pub(super) fn finish(&mut self, lane: Lane, seq: i64) {
        let entries = &mut self.lanes[usize::from(lane % LANES)];
        if let Ok(place) = entries.binary_search_by_key(&seq, |entry| entry.seq) {
            entries[place].done = true;
        }
        while entries.front().is_some_and(|entry| entry.done) {
            entries.pop_front();
            self.outstanding -= 1;
        }
    }

    /// How many entries are held: what is under way, and what is done behind it.
    pub(super) fn len(&self) -> usize {
        self.outstanding
    }

    /// Each lane's cursor: every event up to it is done or deferred. `taken_to` is how far the log was taken.
    pub(super) fn cursors(&self, taken_to: i64) -> [i64; LANES as usize] {
        std::array::from_fn(|lane| self.lanes[lane].front().map_or(taken_to, |entry| taken_to.min(entry.seq - 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_stops_before_the_oldest_event_that_is_not_done() {
        let mut tracker = Tracker::default();
        for seq in [10, 12, 15] {
            tracker.start(3, seq);
        }
        tracker.start(4, 11);
        assert_eq!(tracker.cursors(20)[3], 9);
        assert_eq!(tracker.cursors(20)[5], 20, "an idle lane is done as far as the log was taken");
        tracker.finish(3, 12);
        assert_eq!(tracker.cursors(20)[3], 9, "done out of order");
        tracker.finish(3, 10);
        assert_eq!(tracker.cursors(20)[3], 14);
        tracker.finish(3, 15);
        tracker.finish(3, 99);
        assert_eq!(tracker.cursors(20)[3], 20);
        assert_eq!(tracker.len(), 1);
    }

    #[test]
    fn what_was_under_way_before_holds_the_cursor_once_the_log_was_taken_that_far() {
        let mut tracker = Tracker::default();
        tracker.start(3, 50);
        assert_eq!(tracker.cursors(20)[3], 20, "what lies between was not taken yet");
        tracker.start(3, 30);
        tracker.start(3, 60);
        tracker.finish(3, 30);
        assert_eq!(tracker.cursors(60)[3], 49);
        tracker.finish(3, 50);
        assert_eq!(tracker.cursors(60)[3], 59);
    }
}
