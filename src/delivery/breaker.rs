//! Whether an endpoint is worth sending to. A pure state machine: it is told how attempts ended, and when.
//!
//! ```text
//!            5 events failed, no answer between             a probe is answered
//!   closed ────────────────────────────────────▶ open ───────────────────────────▶ recovering ──▶ closed
//!                                                ▲  │ a probe fails: a longer pause     │  10 events accepted,
//!                                                └──┴───────────────────────────────────┘  or a minute is over
//!                                                     5 events failed, no answer between
//! ```

use std::time::Duration;

use tokio::time::Instant;

use crate::model::{EventId, FailureKind, Outcome, RetryConf};

/// So many events in a row, each another one, make an outage. A single event that fails again and again makes none.
const EVENTS_OF_AN_OUTAGE: usize = 5;
/// Accepted events after which an outage is over for good.
const ACCEPTED_TO_CLOSE: u32 = 10;
/// So is one after which there were not so many in this time: else an event that always fails would never spend a retry
/// where nothing else is sent, or may be before it.
const LONGEST_RECOVERY: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Up to this part of a pause is added to it, so that endpoints that failed together are not tried together.
const JITTER_PERCENT: u32 = 20;
/// What a server says that cannot work just now; any other status is the answer of one that can.
const STATUSES_OF_AN_OUTAGE: [u16; 4] = [429, 502, 503, 504];

/// What an attempt's end says about its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It accepted the event.
    Accepted,
    /// It refused the event, and so it works.
    Answered,
    /// It does not work: not reached, no answer, or a status that says so, perhaps with a `Retry-After`.
    Down { retry_after: Option<Duration> },
}

impl Sign {
    /// Reads an outcome. A status that the trigger gives up on is an answer, whatever it is.
    pub(super) fn of(outcome: &Outcome, conf: &RetryConf, longest_retry_after: Duration) -> Sign {
        match outcome {
            outcome if outcome.is_success() => Sign::Accepted,
            Outcome::Answered(response) => {
                let (status, wait) = (response.status, response.retry_after_sec.map(Duration::from_secs));
                match STATUSES_OF_AN_OUTAGE.contains(&status) && !conf.gives_up_on(status) {
                    true => Sign::Down { retry_after: wait.map(|wait| wait.min(longest_retry_after)) },
                    false => Sign::Answered,
                }
            }
            Outcome::Failed(_) => Sign::Down { retry_after: None },
        }
    }
}

/// Whether a request got as far as the endpoint.
pub(super) fn was_reached(outcome: &Outcome) -> bool {
    use FailureKind::{Connect, ConnectTimeout};
    !matches!(outcome, Outcome::Failed(failure) if matches!(failure.kind, Connect | ConnectTimeout))
}

/// An attempt that ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) event_id: EventId,
    pub(super) sign: Sign,
    pub(super) started_at: Instant,
    pub(super) now: Instant,
}

/// What the breaker makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judged {
    /// Whether a failure is one of the event's own, and not just part of the outage.
    pub(super) counts: bool,
    pub(super) change: Option<Change>,
}

/// The turns that an operator is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing but probes from now on.
    Opened,
    /// A probe was answered: slowly on.
    Answers { after: Duration },
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Closed,
    Open {
        probe: Probe,
    },
    Recovering {
        since: Instant,
        accepted: u32,
    },
}

#[derive(Debug)]
enum Probe {
    DueAt(Instant),
    UnderWay(EventId),
}

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    state: State,
    /// Events that failed since the last answer, each once.
    failing: Vec<EventId>,
    /// Until then the endpoint asked to be left alone.
    not_before: Option<Instant>,
    /// Since when it has been down, until it is closed again.
    down_since: Option<Instant>,
    /// When it opened last: what was under way then says nothing about later.
    opened_at: Option<Instant>,
    /// Pauses since it was closed.
    pauses: u32,
}

impl Breaker {
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Since when it has been down, while it is open.
    pub(super) fn open_since(&self) -> Option<Instant> {
        self.down_since.filter(|_| self.is_open())
    }

    /// When the next probe may go out, while it is open and none is under way.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        match self.state {
            State::Open { probe: Probe::DueAt(at) } => Some(at),
            _ => None,
        }
    }

    /// This event goes out as a probe.
    pub(super) fn probing(&mut self, event_id: EventId) {
        self.state = State::Open { probe: Probe::UnderWay(event_id) };
    }

    /// The event was not sent. If it was to be the probe, another one is.
    pub(super) fn withdrawn(&mut self, event_id: EventId, now: Instant) {
        if matches!(self.state, State::Open { probe: Probe::UnderWay(id) } if id == event_id) {
            self.state = State::Open { probe: Probe::DueAt(now) };
        }
    }

    /// There is reason to hope: the next probe need not wait out its pause, only what the endpoint asked for.
    pub(super) fn probe_soon(&mut self, now: Instant) {
        if let State::Open { probe: Probe::DueAt(at) } = &mut self.state {
            *at = (*at).min(self.not_before.unwrap_or(now).max(now));
        }
        self.pauses = 0;
    }

    /// Takes note of an attempt. `at_once`: a failure opens it without waiting for others.
    pub(super) fn ended(&mut self, ended: &Ended, at_once: bool) -> Judged {
        let Ended { event_id, sign, started_at, now } = *ended;
        if matches!(self.state, State::Recovering { since, .. } if now >= since + LONGEST_RECOVERY) {
            self.close();
        }
        let is_probe = matches!(self.state, State::Open { probe: Probe::UnderWay(id) } if id == event_id);
        let Sign::Down { retry_after } = sign else {
            return Judged { counts: true, change: self.answered(sign, is_probe, now) };
        };
        let asked = retry_after.map(|wait| now + wait);
        self.not_before = self.not_before.max(asked);
        let is_late = self.opened_at.is_some_and(|opened_at| started_at <= opened_at);
        match &mut self.state {
            State::Open { .. } if is_probe => {
                self.open(event_id, now);
                return Judged { counts: false, change: None };
            }
            State::Open { probe } => {
                if let (Probe::DueAt(at), Some(asked)) = (probe, asked) {
                    *at = (*at).max(asked);
                }
                return Judged { counts: false, change: None };
            }
            _ if is_late => return Judged { counts: false, change: None },
            State::Closed | State::Recovering { .. } => {}
        }
        if !self.failing.contains(&event_id) {
            self.failing.push(event_id);
        }
        if at_once || self.failing.len() >= EVENTS_OF_AN_OUTAGE {
            self.open(event_id, now);
            self.opened_at = Some(now);
            return Judged { counts: false, change: Some(Change::Opened) };
        }
        Judged { counts: matches!(self.state, State::Closed), change: None }
    }

    fn answered(&mut self, sign: Sign, is_probe: bool, now: Instant) -> Option<Change> {
        match &mut self.state {
            State::Open { .. } if !is_probe => return None,
            State::Open { .. } => {
                self.state = State::Recovering { since: now, accepted: u32::from(sign == Sign::Accepted) };
            }
            State::Recovering { accepted, .. } => {
                *accepted += u32::from(sign == Sign::Accepted);
                if *accepted >= ACCEPTED_TO_CLOSE {
                    self.close();
                }
            }
            State::Closed => {}
        }
        self.failing.clear();
        self.not_before = None;
        let since = self.down_since.filter(|_| is_probe)?;
        Some(Change::Answers { after: now.saturating_duration_since(since) })
    }

    fn close(&mut self) {
        self.state = State::Closed;
        self.down_since = None;
        self.pauses = 0;
    }

    fn open(&mut self, event_id: EventId, now: Instant) {
        self.down_since.get_or_insert(now);
        let pause = pause(self.pauses, event_id);
        self.pauses += 1;
        self.state = State::Open { probe: Probe::DueAt((now + pause).max(self.not_before.unwrap_or(now))) };
    }
}

/// Twice the one before, up to the longest, and a part that differs from event to event.
fn pause(number: u32, event_id: EventId) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << number.min(16)).min(LONGEST_PAUSE);
    // An id's second half is a hash already.
    let share = (event_id.as_u64_pair().1 % 1024) as u32;
    pause + pause * JITTER_PERCENT / 100 * share / 1024
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::{Failure, Response, Statuses};

    const DOWN: Sign = Sign::Down { retry_after: None };

    /// A breaker with a clock of whole seconds.
    struct Bench {
        breaker: Breaker,
        start: Instant,
        second: u64,
    }

    impl Bench {
        fn new() -> Bench {
            Bench { breaker: Breaker::default(), start: Instant::now(), second: 0 }
        }

        fn now(&self) -> Instant {
            self.start + Duration::from_secs(self.second)
        }

        /// An attempt of an event that ends now and took no time.
        fn ended(&mut self, event: u128, sign: Sign) -> Judged {
            self.ended_late(event, sign, self.second)
        }

        fn ended_late(&mut self, event: u128, sign: Sign, started: u64) -> Judged {
            let started_at = self.start + Duration::from_secs(started);
            let ended = Ended { event_id: id(event), sign, started_at, now: self.now() };
            self.breaker.ended(&ended, false)
        }

        fn opened(events: std::ops::Range<u128>) -> Bench {
            let mut bench = Bench::new();
            let last = events.map(|event| bench.ended(event, DOWN)).last().expect("an event");
            assert_eq!(last, Judged { counts: false, change: Some(Change::Opened) });
            bench
        }

        /// Waits until the next probe is due, and sends it; gives how long that was, in seconds.
        fn probe(&mut self, event: u128) -> f64 {
            let pause = self.breaker.probe_at().expect("open, and no probe under way") - self.now();
            self.second += pause.as_secs_f64().ceil() as u64;
            self.breaker.probing(id(event));
            assert_eq!(self.breaker.probe_at(), None, "one at a time");
            pause.as_secs_f64()
        }
    }

    /// Without jitter.
    fn id(event: u128) -> EventId {
        Uuid::from_u128(event * 1024)
    }

    const COUNTS: Judged = Judged { counts: true, change: None };
    const SPARED: Judged = Judged { counts: false, change: None };

    #[test]
    fn what_outcomes_say() {
        let answered =
            |status, retry_after_sec| Outcome::Answered(Response { status, retry_after_sec, ..Response::default() });
        let failed = |kind| Outcome::Failed(Failure { kind, text: String::new() });
        let asked = |seconds| Sign::Down { retry_after: Some(Duration::from_secs(seconds)) };
        let conf = RetryConf { give_up_on: vec![Statuses::One(504)], ..Default::default() };
        for (outcome, expected) in [
            (answered(200, None), Sign::Accepted),
            (answered(299, Some(5)), Sign::Accepted),
            (answered(301, None), Sign::Answered),
            (answered(404, Some(5)), Sign::Answered),
            (answered(410, None), Sign::Answered),
            (answered(500, None), Sign::Answered),
            (answered(504, None), Sign::Answered),
            (answered(429, None), DOWN),
            (answered(429, Some(7)), asked(7)),
            (answered(502, None), DOWN),
            (answered(503, Some(99)), asked(60)),
            (failed(FailureKind::Connect), DOWN),
            (failed(FailureKind::ConnectTimeout), DOWN),
            (failed(FailureKind::Timeout), DOWN),
            (failed(FailureKind::Broken), DOWN),
        ] {
            assert_eq!(Sign::of(&outcome, &conf, Duration::from_secs(60)), expected, "{outcome:?}");
            let unreached = [FailureKind::Connect, FailureKind::ConnectTimeout].map(failed);
            assert_eq!(was_reached(&outcome), !unreached.contains(&outcome));
        }
    }

    /// Which attempts, in turn, open it: each is an event and how it ended.
    #[test]
    fn only_an_accumulation_over_several_events_opens_it() {
        let ok = Sign::Accepted;
        let no = Sign::Answered;
        for (attempts, opens) in [
            (vec![(1, DOWN), (1, DOWN), (1, DOWN), (1, DOWN), (1, DOWN), (1, DOWN)], false),
            (vec![(1, DOWN), (2, DOWN), (3, DOWN), (4, DOWN), (1, DOWN), (2, DOWN)], false),
            (vec![(1, DOWN), (2, DOWN), (3, DOWN), (4, DOWN), (9, ok), (5, DOWN)], false),
            (vec![(1, DOWN), (2, DOWN), (3, DOWN), (4, DOWN), (9, no), (5, DOWN)], false),
            (vec![(1, no), (2, no), (3, no), (4, no), (5, no), (6, no)], false),
            (vec![(1, DOWN), (2, DOWN), (1, DOWN), (3, DOWN), (4, DOWN), (5, DOWN)], true),
            (vec![(9, ok), (1, DOWN), (2, DOWN), (3, DOWN), (4, DOWN), (5, DOWN)], true),
        ] {
            let mut bench = Bench::new();
            for (event, sign) in &attempts {
                assert!(!bench.breaker.is_open(), "{attempts:?}");
                let judged = bench.ended(*event, *sign);
                assert_eq!(judged.counts, !bench.breaker.is_open(), "{attempts:?}");
            }
            assert_eq!(bench.breaker.is_open(), opens, "{attempts:?}");
        }
    }

    #[test]
    fn while_it_is_open_one_probe_at_a_time_goes_out_in_growing_pauses_and_nothing_counts() {
        let mut bench = Bench::opened(0..5);
        for (event, pause) in (10..).zip([1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]) {
            assert_eq!(bench.probe(event), pause);
            // What was under way when it opened ends as well.
            assert_eq!(bench.ended_late(event + 100, DOWN, 0), SPARED);
            assert_eq!(bench.breaker.probe_at(), None);
            assert_eq!(bench.ended(event, DOWN), SPARED);
        }
        assert!(bench.breaker.open_since().is_some_and(|since| since == bench.start));
        assert_eq!(bench.ended_late(99, Sign::Accepted, 0), COUNTS);
        assert!(bench.breaker.is_open(), "a success from before the outage says nothing");
    }

    #[test]
    fn an_answered_probe_lets_it_recover_and_enough_accepted_events_close_it() {
        for answer in [Sign::Accepted, Sign::Answered] {
            let mut bench = Bench::opened(0..5);
            bench.probe(10);
            let after = Duration::from_secs(bench.second);
            let judged = bench.ended(10, answer);
            assert_eq!(judged, Judged { counts: true, change: Some(Change::Answers { after }) });
            assert!(!bench.breaker.is_open());
            // Recovering, failures are still the outage's.
            assert_eq!(bench.ended(11, DOWN), SPARED);
            for event in 20..30 {
                assert_eq!(bench.ended(event, Sign::Accepted), COUNTS);
            }
            assert_eq!(bench.ended(12, DOWN), COUNTS);
            // What was under way when it opened may end as late as this, and does not open it again.
            for event in 30..40 {
                assert_eq!(bench.ended_late(event, DOWN, 0), SPARED);
            }
            assert!(!bench.breaker.is_open());
        }
    }

    /// Nothing else may be sent where it is first in a trigger that keeps the order of all; or what is sent is refused.
    #[test]
    fn after_a_minute_of_recovery_an_event_that_always_fails_spends_its_retries() {
        for others in [None, Some(Sign::Answered)] {
            let mut bench = Bench::opened(0..5);
            bench.probe(10);
            bench.ended(10, Sign::Accepted);
            for seconds in [10, 10, 10, 10, 10] {
                bench.second += seconds;
                assert_eq!(bench.ended(11, DOWN), SPARED);
                others.map(|sign| bench.ended(12, sign));
            }
            bench.second += 10;
            assert_eq!(bench.ended(11, DOWN), COUNTS);
        }
    }

    #[test]
    fn a_relapse_goes_on_with_longer_pauses_and_a_new_outage_begins_with_short_ones() {
        let mut bench = Bench::opened(0..5);
        bench.probe(10);
        bench.ended(10, Sign::Accepted);
        for event in 11..15 {
            assert_eq!(bench.ended(event, DOWN), SPARED);
        }
        assert_eq!(bench.ended(15, DOWN), Judged { counts: false, change: Some(Change::Opened) });
        assert_eq!(bench.probe(16), 2.0);
        for event in 16..30 {
            bench.ended(event, Sign::Accepted);
        }
        bench.second += 1;
        for event in 30..35 {
            bench.ended(event, DOWN);
        }
        assert_eq!(bench.probe(40), 1.0);
    }

    #[test]
    fn no_probe_is_earlier_than_retry_after_asks() {
        let asked = |seconds| Sign::Down { retry_after: Some(Duration::from_secs(seconds)) };
        let mut bench = Bench::new();
        for (event, seconds) in [(1, 20), (2, 3), (3, 3), (4, 3), (5, 3)] {
            bench.ended(event, asked(seconds));
        }
        bench.ended_late(6, asked(50), 0);
        bench.breaker.probe_soon(bench.now());
        assert_eq!(bench.probe(10), 50.0);
        bench.ended(10, asked(40));
        assert_eq!(bench.probe(11), 40.0);
        bench.ended(11, DOWN);
        assert!(bench.probe(12) < 40.0);
    }

    #[test]
    fn jitter_only_adds_to_a_pause() {
        let pauses: Vec<Duration> = (0..1024).map(|event| pause(9, Uuid::from_u128(event))).collect();
        assert_eq!(pauses.iter().min(), Some(&LONGEST_PAUSE));
        assert!(pauses.iter().all(|pause| *pause < LONGEST_PAUSE * 12 / 10));
        assert!(pauses.iter().collect::<std::collections::HashSet<_>>().len() > 1000);
    }

    #[test]
    fn where_all_fail_one_event_is_enough() {
        let mut bench = Bench::new();
        let (event_id, now) = (id(1), bench.now());
        let ended = Ended { event_id, sign: DOWN, started_at: now, now };
        assert_eq!(bench.breaker.ended(&ended, true), Judged { counts: false, change: Some(Change::Opened) });
    }
}
