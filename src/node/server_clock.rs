//! The time of the queue's server, which all nodes go by: the only clock that they have in common. A node's own clock
//! may be hours off, or stepped while an event waits.
//!
//! Each heartbeat brings a time that the server read between the question and the answer (Cristian's algorithm). So
//! from then on, by the steady clock that nobody sets, the server's time is known within the answer's way, and never
//! better than that: this is an interval, as TrueTime's is. Its `earliest` end decides what is due, its `latest` end
//! what a pause is counted from, so that nothing comes too early, whichever node it was deferred by.
//!
//! Heartbeats whose intervals overlap narrow each other (Marzullo's algorithm), so a slow answer makes nothing worse.
//! Between them the interval widens by what clocks may drift apart. Where a new one lies outside of what was known, one
//! of the clocks was set, or the steady one stood still while the machine slept: then the new one alone counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Instant;

use crate::model::Timestamp;

/// By how much the steady clock and the server's may drift apart: one part of so many. NTP slews a clock by 500
/// millionths at most, here perhaps two of them in opposite directions.
const DRIFT: i64 = 1_000;

/// Cheap to clone and to read: one atomic and the steady clock. Before the first heartbeat it goes by this machine's
/// clock; no request starts without one.
#[derive(Clone, Debug)]
pub struct ServerClock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Where the steady clock is counted from, in microseconds.
    start: Instant,
    earliest: AtomicI64,
    latest: AtomicI64,
    is_set: AtomicBool,
}

impl Default for ServerClock {
    fn default() -> ServerClock {
        let now = Timestamp::now().0;
        let (earliest, latest) = (AtomicI64::new(now), AtomicI64::new(now));
        ServerClock(Arc::new(Inner { start: Instant::now(), earliest, latest, is_set: AtomicBool::new(false) }))
    }
}

impl ServerClock {
    /// The server's clock shows this at least. Never goes back but where a clock was set back.
    pub fn earliest(&self) -> Timestamp {
        Timestamp(slower(self.steady(Instant::now())) + self.0.earliest.load(Ordering::Relaxed))
    }

    /// The server's clock shows this at most.
    pub fn latest(&self) -> Timestamp {
        Timestamp(faster(self.steady(Instant::now())) + self.0.latest.load(Ordering::Relaxed))
    }

    /// The server read its clock between these two moments. Told by one task only: this node's heartbeat.
    pub(super) fn observe(&self, asked: Instant, server: Timestamp, answered: Instant) {
        let (asked, answered) = (self.steady(asked), self.steady(answered));
        let observed = Bounds::observed(asked, server, answered);
        let bounds = match self.0.is_set.swap(true, Ordering::Relaxed) {
            true => self.bounds().narrowed_by(observed, answered),
            false => observed,
        };
        self.0.earliest.store(bounds.earliest, Ordering::Relaxed);
        self.0.latest.store(bounds.latest, Ordering::Relaxed);
    }

    fn bounds(&self) -> Bounds {
        let Inner { earliest, latest, .. } = &*self.0;
        Bounds { earliest: earliest.load(Ordering::Relaxed), latest: latest.load(Ordering::Relaxed) }
    }

    fn steady(&self, moment: Instant) -> i64 {
        i64::try_from(moment.saturating_duration_since(self.0.start).as_micros()).unwrap_or(i64::MAX / 2)
    }
}

/// Two lines over the steady clock, between which the server's time is: what each is above that clock where it began.
/// The lower one rises a little slower than the clock, the upper one a little faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    earliest: i64,
    latest: i64,
}

impl Bounds {
    fn observed(asked: i64, server: Timestamp, answered: i64) -> Bounds {
        Bounds { earliest: server.0 - slower(answered), latest: server.0 - faster(asked) }
    }

    /// What is known from both. Where they contradict each other, the newer ones are right.
    fn narrowed_by(self, newer: Bounds, now: i64) -> Bounds {
        let both = Bounds { earliest: self.earliest.max(newer.earliest), latest: self.latest.min(newer.latest) };
        if slower(now) + both.earliest <= faster(now) + both.latest { both } else { newer }
    }
}

fn slower(steady: i64) -> i64 {
    steady - steady / DRIFT
}

fn faster(steady: i64) -> i64 {
    steady + steady / DRIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    /// Heartbeats (asked, the server's time, answered), one after the other: the interval at a later moment.
    fn after(beats: &[(i64, i64, i64)], at: i64) -> (i64, i64) {
        let mut known: Option<Bounds> = None;
        for (asked, server, answered) in beats {
            let observed = Bounds::observed(*asked, Timestamp(*server), *answered);
            known = Some(known.map_or(observed, |known| known.narrowed_by(observed, *answered)));
        }
        let Bounds { earliest, latest } = known.expect("a heartbeat");
        (slower(at) + earliest, faster(at) + latest)
    }

    #[test]
    fn the_servers_time_is_known_within_the_answers_way_and_what_clocks_drift() {
        // The server is an hour ahead; the answer took 300 microseconds.
        let hour = 3600 * SECOND;
        let beat = (SECOND, SECOND + hour + 100, SECOND + 300);
        assert_eq!(after(&[beat], SECOND + 300), (SECOND + hour + 100, SECOND + hour + 400));
        let (earliest, latest) = after(&[beat], 2 * SECOND);
        let truth = 2 * SECOND + hour;
        assert!(earliest <= truth && truth <= latest, "{earliest} to {latest}");
        assert!(latest - earliest <= 300 + 2 * SECOND / DRIFT, "{earliest} to {latest}");
    }

    #[test]
    fn a_slow_answer_makes_nothing_worse_and_a_fast_one_everything_better() {
        let (fast, slow) = ((SECOND, SECOND + 100, SECOND + 200), (2 * SECOND, 2 * SECOND + 100, 5 * SECOND));
        let width = |beats: &[(i64, i64, i64)]| {
            let (earliest, latest) = after(beats, 6 * SECOND);
            assert!(earliest <= 6 * SECOND && 6 * SECOND <= latest, "{earliest} to {latest}");
            latest - earliest
        };
        assert!(width(&[slow]) >= 3 * SECOND);
        assert!(width(&[fast, slow]) <= width(&[fast]));
        assert!(width(&[slow, fast]) <= width(&[fast]));
    }

    #[test]
    fn a_clock_that_was_set_or_stood_still_wins_with_the_next_heartbeat() {
        let before = (SECOND, SECOND + 100, SECOND + 200);
        for step in [-3600, -1, 1, 3600] {
            let server = 2 * SECOND + step * SECOND + 100;
            let (earliest, latest) = after(&[before, (2 * SECOND, server, 2 * SECOND + 200)], 2 * SECOND + 200);
            assert_eq!((earliest, latest), (server, server + 200), "{step} s");
        }
    }

    #[test]
    fn the_machines_clock_counts_until_the_first_heartbeat() {
        let clock = ServerClock::default();
        let apart = (clock.latest().0 - Timestamp::now().0).abs();
        assert!(apart < 60 * SECOND, "{apart}");
        let (asked, server) = (Instant::now(), Timestamp(7 * SECOND));
        clock.observe(asked, server, Instant::now());
        let (earliest, latest) = (clock.earliest(), clock.latest());
        assert!(server <= earliest && earliest <= latest && latest < Timestamp(67 * SECOND), "{earliest} {latest}");
    }
}
