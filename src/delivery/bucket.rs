//! A trigger's limit of requests a second. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::Rate;

/// What may come at once: the requests of so long, at least one. A timer that rings late is made up for.
const AT_ONCE: Duration = Duration::from_millis(100);

/// In any stretch of time there are at most as many requests as the rate allows for it, and beside them those of a
/// tenth of a second, at least one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    rate: Rate,
    /// When the next request would be due if they came evenly.
    even: Option<Instant>,
}

impl Bucket {
    /// Of a trigger that sent its last request then, if any, at whichever rate.
    pub(super) fn after(rate: Rate, last: Option<Instant>) -> Bucket {
        Bucket { rate, even: last.map(|last| last + rate.interval()) }
    }

    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// When the next request may be started; `None` for at any time.
    pub(super) fn ready_at(&self) -> Option<Instant> {
        let ahead = AT_ONCE.saturating_sub(self.rate.interval());
        self.even.map(|even| even.checked_sub(ahead).unwrap_or(even))
    }

    pub(super) fn started(&mut self, now: Instant) {
        self.even = Some(self.even.map_or(now, |even| even.max(now)) + self.rate.interval());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes whatever it can get, looking each millisecond, with a break; gives when, in milliseconds.
    fn greedy(rate: f64, millis: u64) -> Vec<u64> {
        let mut bucket = Bucket::after(Rate::per_second(rate).expect("a rate"), None);
        let start = Instant::now();
        let mut taken = Vec::new();
        for milli in (0..millis).filter(|milli| !(1000..2000).contains(milli)) {
            let now = start + Duration::from_millis(milli);
            while bucket.ready_at().is_none_or(|at| at <= now) {
                bucket.started(now);
                taken.push(milli);
            }
        }
        taken
    }

    #[test]
    fn no_stretch_of_time_has_more_than_the_rate_allows_and_all_of_it_is_used() {
        for (rate, at_once) in [(0.5, 1.0), (1.0, 1.0), (7.0, 1.0), (10.0, 1.0), (100.0, 10.0), (1000.0, 100.0)] {
            let taken = greedy(rate, 4000);
            for (first, from) in taken.iter().enumerate() {
                for (last, to) in taken.iter().enumerate().skip(first) {
                    let (count, allowed) = ((last - first + 1) as f64, (to - from) as f64 / 1000.0 * rate + at_once);
                    assert!(count <= allowed + 1e-6, "{count} within {} ms at {rate}/s", to - from);
                }
            }
            // Three seconds of the four, less a break's.
            assert!(taken.len() as f64 >= (3.0 * rate - 1.0).max(1.0), "{} at {rate}/s", taken.len());
        }
    }
}
