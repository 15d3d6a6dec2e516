//! Sets of lanes, and how many of them each node is to have.

use super::{LANES, Lane};

/// Some of the lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneSet(u16);

impl LaneSet {
    /// No lane.
    pub const NONE: LaneSet = LaneSet(0);
    /// Every lane.
    pub const ALL: LaneSet = LaneSet(u16::MAX);

    /// Whether a lane is among them.
    pub fn contains(self, lane: Lane) -> bool {
        self.0 & bit(lane) != 0
    }

    /// Adds a lane.
    pub fn insert(&mut self, lane: Lane) {
        self.0 |= bit(lane);
    }

    /// How many they are.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those of either.
    pub fn or(self, other: LaneSet) -> LaneSet {
        LaneSet(self.0 | other.0)
    }

    /// Those of both.
    pub fn and(self, other: LaneSet) -> LaneSet {
        LaneSet(self.0 & other.0)
    }

    /// Those that are not among the others.
    pub fn without(self, other: LaneSet) -> LaneSet {
        LaneSet(self.0 & !other.0)
    }

    /// As Postgres stores them.
    pub fn numbers(self) -> Vec<i16> {
        self.iter().map(i16::from).collect()
    }

    /// One by one, in order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Lane> {
        (0..LANES).filter(move |lane| self.contains(*lane))
    }
}

impl FromIterator<Lane> for LaneSet {
    fn from_iter<I: IntoIterator<Item = Lane>>(lanes: I) -> LaneSet {
        let mut set = LaneSet::NONE;
        lanes.into_iter().for_each(|lane| set.insert(lane));
        set
    }
}

fn bit(lane: Lane) -> u16 {
    1 << (lane % LANES)
}

/// How many lanes a node is to have, one of so many and the `place`-th of them, counted from 0. No two differ by more
/// than one, and all together have every lane.
pub fn fair_share(place: usize, nodes: usize) -> usize {
    let (lanes, nodes) = (usize::from(LANES), nodes.max(1));
    lanes / nodes + usize::from(place < lanes % nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_make_up_all_lanes() {
        for nodes in 1..40 {
            let shares: Vec<usize> = (0..nodes).map(|place| fair_share(place, nodes)).collect();
            assert_eq!(shares.iter().sum::<usize>(), usize::from(LANES), "{nodes}");
            assert!(shares.iter().max() <= shares.iter().min().map(|least| least + 1).as_ref(), "{shares:?}");
        }
    }

    #[test]
    fn sets_are_sets() {
        let some: LaneSet = [3, 15, 0].into_iter().collect();
        assert_eq!(some.iter().collect::<Vec<_>>(), [0, 3, 15]);
        assert_eq!((some.len(), LaneSet::ALL.len(), LaneSet::ALL.without(some).len()), (3, 16, 13));
        assert!(LaneSet::ALL.without(some).and(some).is_empty());
        assert_eq!(LaneSet::ALL.without(some).or(some), LaneSet::ALL);
    }
}
