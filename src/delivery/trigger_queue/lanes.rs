//! Which lanes' events a trigger takes, from where on, and how far it has come in them.

use super::TriggerQueue;
use crate::delivery::busy::Busy;
use crate::delivery::fetch::Place;
use crate::delivery::intake::Intake;
use crate::delivery::rows::Rows;
use crate::delivery::tracker::Tracker;
use crate::model::{EventId, LaneSet};
use crate::queue::Floor;

/// Where other nodes have the lanes of all that comes, cursors move after so much: who takes these lanes over looks
/// through the log from there.
const STEP: i64 = 100_000;

impl TriggerQueue {
    /// Forgets what was taken and goes on from this place. What is under way goes on, and is not taken once more: until
    /// its outcomes are durable, rows are busy with it and cursors stay before it.
    pub(in crate::delivery) fn restart(&mut self, place: Place, under_way: &[(EventId, Busy)]) {
        let Place { lanes, floor, dealt_with, held } = place;
        self.pause.begin_anew();
        (self.lanes, self.floor, self.dealt_with) = (lanes, floor, dealt_with);
        (self.rows, self.tracker) = (Rows::default(), Tracker::default());
        self.hand.clear();
        held.into_iter().for_each(|row| self.rows.hold(row));
        for (event, busy) in under_way {
            if let Some(row) = busy.lock {
                self.rows.lock(row, *event);
            }
            if busy.deferred {
                self.hand.take(*event, false);
            } else {
                self.dealt_with.insert(busy.seq);
                self.tracker.start(busy.lane, busy.seq);
            }
        }
        self.taken_to = floor.iter().copied().min().unwrap_or(0);
        self.saved_to = self.taken_to;
        (self.intake, self.dirty) = (Intake::Behind, true);
    }

    /// The cursors, if they may have moved; 0 for lanes that it does not take. While live the log was taken to its end.
    pub(in crate::delivery) fn take_cursors(&mut self, head: i64) -> Option<Floor> {
        let taken_to = if let Intake::Live = self.intake { self.taken_to.max(head) } else { self.taken_to };
        let far = self.lanes != LaneSet::ALL && taken_to - self.saved_to > STEP;
        if !std::mem::take(&mut self.dirty) && !far {
            return None;
        }
        (self.taken_to, self.saved_to) = (taken_to, taken_to);
        let moved = self.tracker.cursors(self.taken_to);
        let cursor = |lane: usize| if self.lanes.contains(lane as u8) { moved[lane].max(self.floor[lane]) } else { 0 };
        Some(std::array::from_fn(cursor))
    }
}
