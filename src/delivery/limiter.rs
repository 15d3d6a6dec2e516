//! How many requests of a trigger may be under way, and how many a second: what its definition allows, and less while
//! its endpoint shows that this is too much. Pure.

use tokio::time::Instant;

use super::bucket::Bucket;
use super::budget::UnderWay;
use crate::model::{Failure, FailureKind, LANES, Limits, Outcome};

/// Of a node, where the definition says nothing: more nodes may have more under way then.
const DEFAULT_MAX_IN_FLIGHT: usize = 64;
/// Too many requests, and service unavailable.
const STATUSES_OF_OVERLOAD: [u16; 2] = [429, 503];

/// What an outcome says about the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// The endpoint can take it.
    Fine,
    /// It is too much.
    TooMuch,
    /// Nothing.
    Unknown,
}

impl Load {
    pub(super) fn of(outcome: &Outcome) -> Load {
        match outcome {
            outcome if outcome.is_success() => Load::Fine,
            Outcome::Answered(response) if STATUSES_OF_OVERLOAD.contains(&response.status) => Load::TooMuch,
            // One that cannot be connected to in time may have too many who wait for it.
            Outcome::Failed(Failure { kind: FailureKind::Timeout | FailureKind::ConnectTimeout, .. }) => Load::TooMuch,
            Outcome::Answered(_) | Outcome::Failed(_) => Load::Unknown,
        }
    }
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Limiter {
    most: usize,
    limit: usize,
    under_way: UnderWay,
    bucket: Option<Bucket>,
    /// Accepted events since the limit was changed.
    accepted: usize,
    /// Requests from before this were sent under another limit.
    lowered_at: Option<Instant>,
    started_at: Option<Instant>,
}

impl Limiter {
    pub(super) fn new(limits: Limits) -> Limiter {
        let most = most(limits, LANES.into());
        let bucket = limits.rate_limit_per_sec.map(|rate| Bucket::after(rate, None));
        Limiter {
            most,
            limit: most,
            under_way: UnderWay::default(),
            bucket,
            accepted: 0,
            lowered_at: None,
            started_at: None,
        }
    }

    /// Takes over what the definition says now: the part of so many lanes, as the nodes that have the others send as
    /// well. What was learnt of the endpoint stays.
    pub(super) fn apply(&mut self, limits: Limits, lanes: usize) {
        let most = most(limits, lanes);
        if most != self.most {
            (self.limit, self.accepted) = ((self.limit * most / self.most).max(1), 0);
            self.most = most;
        }
        let rate = limits.rate_limit_per_sec.map(|rate| rate.part(lanes, LANES.into()));
        if self.bucket.map(|bucket| bucket.rate()) != rate {
            self.bucket = rate.map(|rate| Bucket::after(rate, self.started_at));
        }
    }

    /// What is under way.
    pub(super) fn under_way(&self) -> UnderWay {
        self.under_way
    }

    /// Whether one more may be under way.
    pub(super) fn has_place(&self) -> bool {
        self.under_way.requests < self.limit
    }

    /// When the rate allows the next request; `None` for at any time.
    pub(super) fn ready_at(&self) -> Option<Instant> {
        self.bucket.as_ref().and_then(Bucket::ready_at)
    }

    /// When the last request was started.
    pub(super) fn started_at(&self) -> Option<Instant> {
        self.started_at
    }

    pub(super) fn started(&mut self, bytes: usize, now: Instant) {
        self.under_way.add(bytes);
        self.started_at = Some(now);
        if let Some(bucket) = &mut self.bucket {
            bucket.started(now);
        }
    }

    /// A request that was started then ended now. The limit is halved once for all that were under way together, and
    /// grows by one with each time that as many were accepted as it allows.
    pub(super) fn ended(&mut self, load: Load, bytes: usize, started_at: Instant, now: Instant) {
        self.under_way.remove(bytes);
        match load {
            Load::Fine => {
                self.accepted += 1;
                if self.accepted >= self.limit {
                    self.limit = (self.limit + 1).min(self.most);
                    self.accepted = 0;
                }
            }
            Load::TooMuch if self.lowered_at.is_none_or(|at| started_at > at) => self.lower_to(self.limit / 2, now),
            Load::TooMuch | Load::Unknown => {}
        }
    }

    /// After an outage it begins with one request at a time.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        self.lower_to(1, now);
    }

    fn lower_to(&mut self, limit: usize, now: Instant) {
        self.limit = limit.max(1);
        self.accepted = 0;
        self.lowered_at = Some(now);
    }
}

/// Rounded down, so that all nodes together stay within what the definition says; but none can do without one.
fn most(limits: Limits, lanes: usize) -> usize {
    let part = |most: u32| (most as usize * lanes / usize::from(LANES)).max(1);
    limits.max_in_flight.map_or(DEFAULT_MAX_IN_FLIGHT, part)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Failure, Response};

    #[test]
    fn what_outcomes_say_about_the_load() {
        let answered = |status| Outcome::Answered(Response { status, ..Response::default() });
        let failed = |kind| Outcome::Failed(Failure { kind, text: String::new() });
        for (outcome, expected) in [
            (answered(204), Load::Fine),
            (answered(404), Load::Unknown),
            (answered(429), Load::TooMuch),
            (answered(500), Load::Unknown),
            (answered(503), Load::TooMuch),
            (failed(FailureKind::Timeout), Load::TooMuch),
            (failed(FailureKind::ConnectTimeout), Load::TooMuch),
            (failed(FailureKind::Connect), Load::Unknown),
            (failed(FailureKind::Broken), Load::Unknown),
        ] {
            assert_eq!(Load::of(&outcome), expected, "{outcome:?}");
        }
    }

    fn limits(max_in_flight: u32) -> Limits {
        Limits { max_in_flight: Some(max_in_flight), ..Limits::default() }
    }

    #[test]
    fn a_changed_definition_leaves_what_was_learnt() {
        let now = Instant::now();
        let slow = Limits { rate_limit_per_sec: crate::model::Rate::per_second(0.5), ..limits(20) };
        let mut limiter = Limiter::new(slow);
        assert_eq!(limiter.ready_at(), None);
        limiter.started(1, now);
        limiter.ended(Load::TooMuch, 1, now, now);
        limiter.apply(slow, 16);
        let after = |seconds| Some(now + Duration::from_secs(seconds));
        assert_eq!((limiter.limit, limiter.ready_at()), (10, after(2)));
        limiter.apply(Limits::default(), 16);
        assert_eq!((limiter.limit, limiter.ready_at()), (32, None));
    }

    #[test]
    fn a_node_has_its_lanes_part_of_what_may_be_under_way_and_at_least_one() {
        let mut limiter = Limiter::new(limits(20));
        for (lanes, allowed) in [(16, 20), (5, 6), (6, 7), (1, 1), (0, 1), (16, 20)] {
            limiter.apply(limits(20), lanes);
            assert_eq!((limiter.most, limiter.limit), (allowed, allowed), "{lanes} lanes");
        }
        // The endpoint can take half of it.
        let now = Instant::now();
        limiter.started(1, now);
        limiter.ended(Load::TooMuch, 1, now, now);
        for (lanes, allowed) in [(8, 5), (4, 2), (16, 8)] {
            limiter.apply(limits(20), lanes);
            assert_eq!(limiter.limit, allowed, "{lanes} lanes");
        }
        limiter.apply(Limits::default(), 4);
        assert_eq!(limiter.most, 64, "where the definition says nothing");
    }

    #[test]
    fn a_node_has_its_lanes_part_of_the_rate_and_no_more_at_once_when_that_changes() {
        let now = Instant::now();
        let slow = Limits { rate_limit_per_sec: crate::model::Rate::per_second(0.5), ..limits(20) };
        let mut limiter = Limiter::new(slow);
        limiter.started(1, now);
        for (lanes, seconds) in [(8, 4), (4, 8), (16, 2)] {
            limiter.apply(slow, lanes);
            assert_eq!(limiter.ready_at(), Some(now + Duration::from_secs(seconds)), "{lanes} lanes");
        }
        assert_eq!(limiter.limit, 20);
    }

    /// Starts as many as it allows; gives how many that were.
    fn fill(limiter: &mut Limiter, now: Instant) -> usize {
        let mut started = 0;
        while limiter.has_place() {
            limiter.started(1, now);
            started += 1;
        }
        started
    }

    /// Each step: how all that are under way end, and how many may be under way after it.
    #[test]
    fn it_halves_once_for_what_was_under_way_together_and_grows_by_one() {
        use Load::{Fine, TooMuch, Unknown};
        let mut now = Instant::now();
        let mut limiter = Limiter::new(limits(20));
        for (step, (load, allowed)) in [
            (Fine, 20),
            (TooMuch, 10),
            (TooMuch, 5),
            (Unknown, 5),
            (Fine, 6),
            (Fine, 7),
            (TooMuch, 3),
            (TooMuch, 1),
            (TooMuch, 1),
            (Fine, 2),
            (Fine, 3),
        ]
        .into_iter()
        .enumerate()
        {
            now += Duration::from_secs(1);
            let started_at = now;
            let started = fill(&mut limiter, started_at);
            now += Duration::from_secs(1);
            (0..started).for_each(|_| limiter.ended(load, 1, started_at, now));
            assert_eq!(limiter.limit, allowed, "step {step}");
        }
    }

    #[test]
    fn after_an_outage_what_ends_late_does_not_lower_it() {
        let before = Instant::now();
        let mut limiter = Limiter::new(limits(20));
        assert_eq!(fill(&mut limiter, before), 20);
        let after = before + Duration::from_secs(1);
        limiter.begin_anew(after);
        assert!(!limiter.has_place());
        limiter.under_way = UnderWay::default();
        for _ in 0..4 {
            let started = fill(&mut limiter, after);
            (0..started).for_each(|_| limiter.ended(Load::Fine, 1, after, after));
        }
        limiter.ended(Load::TooMuch, 1, before, after);
        assert_eq!(limiter.limit, 5);
    }
}
