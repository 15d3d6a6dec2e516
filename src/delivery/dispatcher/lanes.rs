//! Which lanes this node delivers. When they change, every trigger begins anew at its cursors and the attempt log; what
//! is under way goes on. Nothing is started or recorded while it is read where they stand, so what was read holds; that
//! takes some milliseconds. A lane is given back once nothing of it is under way or to be recorded.

use std::collections::{HashMap, HashSet};

use tokio::task::JoinSet;
use tracing::info;
use uuid::Uuid;

use super::Dispatcher;
use crate::delivery::busy::Busy;
use crate::delivery::recorder::Work;
use crate::delivery::tenure::Terms;
use crate::model::{EventId, LANES, Lane, LaneSet, RowHash, Verdict};
use crate::queue::Settled;

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// Those whose locks our session holds.
    owned: LaneSet,
    /// Those of them that are to be given back: nothing is started in them any more.
    leaving: LaneSet,
    /// Those whose events the queues take.
    taken: LaneSet,
    change: Change,
    /// Those of the recorder.
    terms: Terms,
    session: u64,
    /// How many are to be ours.
    share: usize,
}

/// How far a change of the lanes has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Change {
    #[default]
    None,
    /// Nothing is started any more. What is being recorded ends first.
    Wanted,
    /// The cursors were written, so that less is read again.
    Saved,
    /// It is being read where the triggers go on.
    Loading,
}

impl Lanes {
    /// Those that are to be worked on.
    pub(super) fn active(&self) -> LaneSet {
        self.owned.without(self.leaving)
    }

    /// Whether the queues take a lane's events.
    pub(super) fn take(&self, lane: Lane) -> bool {
        self.taken.contains(lane)
    }

    /// How many locks are ours.
    pub(super) fn count(&self) -> u8 {
        self.owned.iter().map(|_| 1).sum()
    }

    /// Whether any lock is ours.
    pub(super) fn are_owned(&self) -> bool {
        !self.owned.is_empty()
    }

    /// Whether nothing may be started or recorded for a moment.
    pub(super) fn are_changing(&self) -> bool {
        self.change != Change::None
    }

    /// Whether the load that runs is to say where every trigger goes on.
    pub(super) fn are_loading(&self) -> bool {
        self.change == Change::Loading
    }

    /// The terms in which requests begin.
    pub(super) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// How many are to be ours from now on.
    pub(super) fn set_share(&mut self, share: usize) {
        self.share = share;
    }

    /// That load failed, or means nothing any more.
    pub(super) fn load_again(&mut self) {
        if self.are_changing() {
            self.change = Change::Wanted;
        }
    }
}

impl Dispatcher {
    /// Lanes were got; all these are ours.
    pub(super) fn on_got(&mut self, session: u64, owned: LaneSet, terms: Terms) {
        let anew = LaneSet::ALL.without(self.lanes.terms.same(&terms));
        (self.lanes.session, self.lanes.owned, self.lanes.terms) = (session, owned, terms);
        // Others may have delivered what was under way in them, or will: nothing that comes of it may be recorded.
        self.busy.retain(|_, busy| !anew.contains(busy.lane));
        self.unrecorded.retain(LaneSet::ALL.without(anew));
        self.lanes.share = self.member.standing.borrow().share;
        info!("this node has {} of {LANES} lanes", owned.len());
        let void = anew.and(self.lanes.taken);
        if self.lanes.are_changing() || !void.is_empty() || self.lanes.active() != self.lanes.taken {
            self.lanes.change = Change::Wanted;
        }
        self.set_owner();
        self.start_load();
        self.start_heads();
    }

    /// The session that owned them ended.
    pub(super) fn on_lost(&mut self) {
        (self.lanes.owned, self.lanes.leaving) = (LaneSet::NONE, LaneSet::NONE);
        self.lanes.load_again();
        self.set_owner();
    }

    /// They are not ours any more, as was asked for.
    pub(super) fn on_given_back(&mut self, lanes: LaneSet) {
        self.lanes.owned = self.lanes.owned.without(lanes);
        self.lanes.leaving = self.lanes.leaving.without(lanes);
        self.set_owner();
    }

    fn set_owner(&mut self) {
        self.owner = self.lanes.are_owned() && !self.lanes.are_changing();
    }

    /// Goes on with a change of the lanes, begins one where this node has more than its share, and gives those back
    /// that are quiet.
    pub(super) fn change_lanes(&mut self) {
        if self.recording || !self.lanes.are_owned() {
            return;
        }
        match self.lanes.change {
            Change::None => {
                if !self.level_out() {
                    self.give_back_quiet();
                }
            }
            Change::Wanted => {
                self.lanes.change = Change::Saved;
                let moves = self.cursor_moves();
                if moves.is_empty() {
                    self.start_change();
                } else {
                    self.recording = self.work.try_send(Work::Cursors(moves)).is_ok();
                }
            }
            Change::Saved => self.start_change(),
            Change::Loading => {}
        }
    }

    /// What is being read is of other lanes, and void.
    fn start_change(&mut self) {
        self.lanes.change = Change::Loading;
        self.fetches = JoinSet::new();
        self.forget_reads();
        (self.due_running, self.heads_running) = (false, false);
        self.down_changed |= std::mem::take(&mut self.telling_down);
        self.waiters_of_next_load.append(&mut self.loaded_waiters);
        self.load(HashSet::new());
    }

    /// Every trigger went on from its new place.
    pub(super) fn changed_lanes(&mut self) {
        (self.lanes.taken, self.lanes.change) = (self.lanes.active(), Change::None);
        // They are found again.
        self.unrecorded.skipped.clear();
        self.set_owner();
        self.look_for_parked = true;
        self.start_heads();
    }

    /// Whether the lanes are to change because this node's share is another one. Those with the least under way go
    /// first.
    fn level_out(&mut self) -> bool {
        let (active, share) = (self.lanes.active(), self.lanes.share);
        if active.len() > share {
            let mut under_way: HashMap<Lane, usize> = HashMap::new();
            self.busy.values().for_each(|busy| *under_way.entry(busy.lane).or_default() += 1);
            let mut lanes: Vec<Lane> = active.iter().rev().collect();
            lanes.sort_by_key(|lane| under_way.get(lane).copied().unwrap_or(0));
            let going = lanes.into_iter().take(active.len() - share).collect();
            self.lanes.leaving = self.lanes.leaving.or(going);
        } else if active.len() < share && !self.lanes.leaving.is_empty() {
            let coming_back = self.lanes.leaving.iter().take(share - active.len()).collect();
            self.lanes.leaving = self.lanes.leaving.without(coming_back);
        } else {
            return false;
        }
        self.lanes.change = Change::Wanted;
        self.set_owner();
        true
    }

    /// Of the lanes that are to be given back, those in which nothing is under way or waits to be recorded.
    fn quiet(&self) -> LaneSet {
        self.lanes.leaving.without(self.busy.values().map(|busy| busy.lane).collect())
    }

    fn give_back_quiet(&mut self) {
        if self.lanes.leaving.is_empty() {
            return;
        }
        let lanes = self.quiet();
        if !lanes.is_empty() {
            let work = Work::GiveBack { session: self.lanes.session, lanes };
            self.recording = self.work.try_send(work).is_ok();
        }
    }

    /// After the stop there are no more changes. What the queues know may be void in the middle of one; outcomes are
    /// recorded all the same.
    pub(super) fn stop_changing(&mut self) {
        if std::mem::take(&mut self.lanes.change) != Change::None {
            self.triggers.clear();
            self.unrecorded.skipped.clear();
        }
    }

    /// After the stop all lanes go, those at once in which nothing is under way, and the cursors are written before
    /// them. `saved` remembers for which that was done.
    pub(super) fn leave(&mut self, saved: &mut LaneSet) {
        self.lanes.leaving = self.lanes.owned;
        self.set_owner();
        if self.recording {
            return;
        }
        let quiet = self.quiet();
        if std::mem::replace(saved, quiet) != quiet {
            self.cursors_due = true;
            self.start_recording();
        }
        if !self.recording {
            self.give_back_quiet();
        }
    }

    /// What is under way, for each trigger that goes on from another place. A row is not busy any more with what was
    /// accepted and is only not recorded yet; and of the failed ones of a batch, with one of each row.
    pub(super) fn under_way(&self) -> HashMap<Uuid, Vec<(EventId, Busy)>> {
        let lock = |settled: &Settled| settled.lock.filter(|_| settled.attempt.verdict != Verdict::Delivered);
        let ended = self.unrecorded.settled.iter().map(|settled| (settled.event_id, lock(settled)));
        let ended: HashMap<EventId, Option<RowHash>> = ended.collect();
        let active = self.lanes.active();
        let mut under_way: HashMap<Uuid, Vec<(EventId, Busy)>> = HashMap::new();
        for (event, busy) in self.busy.iter().filter(|(_, busy)| active.contains(busy.lane)) {
            let lock = ended.get(event).copied().unwrap_or(busy.lock);
            under_way.entry(busy.trigger_id).or_default().push((*event, Busy { lock, ..*busy }));
        }
        under_way
    }
}
