//! What all triggers together may have under way, and that none takes the others' part of it. Pure.

/// Of request bodies under way, passed by one at most.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Requests under way and the bytes of their bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct UnderWay {
    pub(super) requests: usize,
    pub(super) bytes: usize,
}

impl UnderWay {
    pub(super) fn add(&mut self, bytes: usize) {
        self.requests += 1;
        self.bytes += bytes;
    }

    /// A request that was added ended. Where the count was begun anew since, it was not.
    pub(super) fn remove(&mut self, bytes: usize) {
        self.requests = self.requests.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// While there is plenty, each trigger takes what it can use. When three quarters are taken, only those get more that
/// have less than an even share of everything: so the last quarter is left for them, and a trigger whose requests take
/// long gives way as they end.
#[derive(Debug)]
pub(super) struct Budget {
    max_requests: usize,
    taken: UnderWay,
}

impl Budget {
    pub(super) fn new(max_requests: usize) -> Budget {
        Budget { max_requests, taken: UnderWay::default() }
    }

    pub(super) fn taken(&mut self) -> &mut UnderWay {
        &mut self.taken
    }

    pub(super) fn is_full(&self) -> bool {
        self.taken.requests >= self.max_requests || self.taken.bytes >= MAX_BYTES
    }

    fn is_short(&self) -> bool {
        self.taken.requests >= self.max_requests - self.max_requests / 4 || self.taken.bytes >= MAX_BYTES / 4 * 3
    }

    /// Whether one of so many triggers, that has so much under way, may start a request.
    pub(super) fn allows(&self, own: UnderWay, triggers: usize) -> bool {
        let share = |of: usize| (of / triggers.max(1)).max(1);
        let is_within = own.requests < share(self.max_requests) && own.bytes < share(MAX_BYTES);
        !self.is_full() && (!self.is_short() || is_within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets triggers take turns of one request each until none may start one, the first ones before all others.
    fn fill(budget: &mut Budget, triggers: &mut [UnderWay], slow: usize, bytes: usize) {
        let count = triggers.len();
        for range in [0..slow, 0..count] {
            loop {
                let mut started = false;
                for own in &mut triggers[range.clone()] {
                    if own.requests < 64 && budget.allows(*own, count) {
                        own.add(bytes);
                        budget.taken().add(bytes);
                        started = true;
                    }
                }
                if !started {
                    break;
                }
            }
        }
    }

    /// So many triggers, how many of them hang and come first, the size of a body; what the first of the others gets at
    /// least, and what all come to at most.
    #[test]
    fn those_that_hang_leave_the_others_their_part() {
        for (triggers, slow, bytes, least, most) in [
            (1, 1, 1_000, 64, 64),
            (101, 1, 1_000, 9, 1_024),
            (17, 16, 1_000, 60, 1_024),
            (1_000, 100, 1_000, 1, 1_024),
            (2_000, 200, 1_000, 1, 1_024),
            (20, 10, 1 << 20, 1, 16),
            (2, 1, 100 << 20, 0, 1),
        ] {
            let mut budget = Budget::new(1_024);
            let mut all = vec![UnderWay::default(); triggers];
            fill(&mut budget, &mut all, slow, bytes);
            let (case, taken) = (format!("{slow} of {triggers} with {bytes} bytes"), *budget.taken());
            assert_eq!(taken.requests, all.iter().map(|own| own.requests).sum::<usize>(), "{case}");
            assert!(taken.requests <= most, "{case}: {taken:?}");
            let others = all.get(slow).map_or(all[0].requests, |own| own.requests);
            assert!(others >= least, "{case}: {others}");
        }
    }

    #[test]
    fn a_trigger_over_its_share_gives_way_as_its_requests_end() {
        let mut budget = Budget::new(100);
        let (mut greedy, mut other) = (UnderWay::default(), UnderWay::default());
        while budget.allows(greedy, 2) {
            greedy.add(1);
            budget.taken().add(1);
        }
        assert_eq!(greedy.requests, 75);
        for _ in 0..25 {
            assert!(budget.allows(other, 2) && !budget.allows(greedy, 2));
            other.add(1);
            budget.taken().add(1);
        }
        assert!(!budget.allows(other, 2), "full");
        for _ in 0..25 {
            greedy.remove(1);
            budget.taken().remove(1);
            assert!(!budget.allows(greedy, 2) && budget.allows(other, 2));
            other.add(1);
            budget.taken().add(1);
        }
        greedy.remove(1);
        budget.taken().remove(1);
        assert!(budget.allows(greedy, 2), "even");
    }

    #[test]
    fn the_smallest_budget_is_one_request() {
        let mut budget = Budget::new(1);
        assert!(budget.allows(UnderWay::default(), 5));
        budget.taken().add(1);
        assert!(budget.is_full() && !budget.allows(UnderWay::default(), 5));
    }
}
