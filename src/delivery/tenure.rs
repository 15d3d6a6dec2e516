//! Which lanes are this node's, and since when. An outcome may be recorded only as long as its lane was not given away
//! or lost since its request began, also where the lane came back meanwhile. No I/O.

use crate::model::{LANES, Lane, LaneSet, Timestamp};
use crate::queue::Taken;

/// Counts for each lane how often this node got it after others may have had it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms([u64; LANES as usize]);

impl Terms {
    /// That of a lane.
    pub(super) fn of(&self, lane: Lane) -> u64 {
        self.0[usize::from(lane % LANES)]
    }

    fn begin(&mut self, lanes: LaneSet) {
        lanes.iter().for_each(|lane| self.0[usize::from(lane)] += 1);
    }

    /// The lanes whose terms are the same.
    pub(super) fn same(&self, other: &Terms) -> LaneSet {
        LaneSet::ALL.iter().filter(|lane| self.of(*lane) == other.of(*lane)).collect()
    }
}

/// The lanes of whoever has the session that owns them.
#[derive(Debug, Default)]
pub(super) struct Tenure {
    owned: LaneSet,
    /// Owned until the session ended. Those that nobody else had when this node has lanes again are as if never lost.
    lost: LaneSet,
    /// Since when each was this node's, as it was told last.
    since: [Option<Timestamp>; LANES as usize],
    terms: Terms,
}

impl Tenure {
    /// The lanes that are owned.
    pub(super) fn owned(&self) -> LaneSet {
        self.owned
    }

    /// Those that were owned by the session that ended, while there is none or it has none.
    pub(super) fn lost(&self) -> LaneSet {
        self.lost
    }

    /// Their terms.
    pub(super) fn terms(&self) -> Terms {
        self.terms
    }

    /// Lanes were got, or none.
    pub(super) fn took(&mut self, taken: Taken) {
        if taken.lanes.is_empty() {
            return;
        }
        let is_untouched = |lane: &Lane| {
            let (before, now) = (self.since[usize::from(*lane)], taken.since[usize::from(*lane)]);
            now.is_some() && now == before
        };
        let kept = taken.lanes.and(self.lost).iter().filter(is_untouched).collect();
        self.terms.begin(taken.lanes.or(self.lost).without(kept));
        taken.lanes.iter().map(usize::from).for_each(|lane| self.since[lane] = taken.since[lane]);
        self.owned = self.owned.or(taken.lanes);
        self.lost = LaneSet::NONE;
    }

    /// The session ended, and with it all locks.
    pub(super) fn session_ended(&mut self) {
        self.lost = self.lost.or(std::mem::take(&mut self.owned));
    }

    /// Lanes were given back.
    pub(super) fn gave_back(&mut self, lanes: LaneSet) {
        self.owned = self.owned.without(lanes);
    }

    /// The lanes that are still in the terms of then.
    pub(super) fn still(&self, then: &Terms) -> LaneSet {
        self.owned.and(self.terms.same(then))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes<const N: usize>(numbers: [Lane; N]) -> LaneSet {
        numbers.into_iter().collect()
    }

    /// These lanes, which are this node's since these times.
    fn taken<const N: usize>(since: [(Lane, i64); N]) -> Taken {
        let mut taken = Taken::default();
        for (lane, time) in since {
            taken.lanes.insert(lane);
            taken.since[usize::from(lane)] = Some(Timestamp::from_postgres_micros(time));
        }
        taken
    }

    fn owner_of(taken: Taken) -> (Tenure, Terms) {
        let mut tenure = Tenure::default();
        tenure.took(taken);
        let then = tenure.terms();
        (tenure, then)
    }

    #[test]
    fn a_lane_that_nobody_else_had_outlives_its_session() {
        let (mut tenure, then) = owner_of(taken([(1, 10), (2, 10), (3, 10)]));
        assert_eq!(tenure.still(&then), lanes([1, 2, 3]));
        tenure.session_ended();
        assert_eq!(tenure.still(&then), LaneSet::NONE);
        tenure.took(Taken::default());
        // 2 was another node's meanwhile, 3 still is.
        tenure.took(taken([(1, 10), (2, 20)]));
        assert_eq!(tenure.still(&then), lanes([1]));
        tenure.took(taken([(3, 10)]));
        assert_eq!(tenure.still(&then), lanes([1]), "what was known of it was forgotten");
        assert_eq!(tenure.still(&tenure.terms()), lanes([1, 2, 3]));
    }

    #[test]
    fn a_lane_that_was_given_back_and_came_back_is_another() {
        let (mut tenure, then) = owner_of(taken([(1, 10), (2, 10)]));
        tenure.gave_back(lanes([2]));
        assert_eq!(tenure.still(&then), lanes([1]));
        tenure.took(taken([(2, 10)]));
        assert_eq!(tenure.still(&then), lanes([1]));
    }

    /// What was noted without an answer shows in the time: those that another node had have a new one.
    #[test]
    fn a_session_that_ends_before_it_has_lanes_changes_nothing() {
        let (mut tenure, then) = owner_of(taken([(1, 10), (2, 10)]));
        tenure.session_ended();
        tenure.session_ended();
        tenure.took(taken([(1, 10), (2, 20)]));
        assert_eq!(tenure.still(&then), lanes([1]));
        // The session that got them failed before anybody was told.
        let told = tenure.terms();
        tenure.session_ended();
        tenure.took(taken([(1, 10), (2, 20)]));
        assert_eq!((tenure.still(&then), tenure.still(&told)), (lanes([1]), lanes([1, 2])));
    }
}
