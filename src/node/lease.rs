//! The right to start requests: as long as the last heartbeat is so young that nobody can have taken this node for
//! dead.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// A moment by two clocks. The one that never goes back stands still while the machine sleeps; the other one may be
/// set. Whichever says that more time passed is believed.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    steady: Instant,
    wall: SystemTime,
}

impl Moment {
    /// This one.
    pub fn now() -> Moment {
        Moment { steady: Instant::now(), wall: SystemTime::now() }
    }

    /// How long ago it was, by the clock that says longer.
    pub fn elapsed(&self) -> Duration {
        self.steady.elapsed().max(self.wall.elapsed().unwrap_or(Duration::ZERO))
    }
}

/// Shared by who renews it and whoever asks. It is not valid before it was renewed first.
#[derive(Clone, Debug)]
pub struct Lease {
    confirmed: Arc<Mutex<Option<Moment>>>,
    length: Duration,
}

impl Lease {
    /// One that is valid for so long after each renewal.
    pub fn new(length: Duration) -> Lease {
        Lease { confirmed: Arc::default(), length }
    }

    /// A heartbeat was confirmed that began at this moment.
    pub fn renew(&self, began: Moment) {
        *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = Some(began);
    }

    /// Whether requests may be started.
    pub fn is_valid(&self) -> bool {
        let confirmed = *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        confirmed.is_some_and(|moment| moment.elapsed() < self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_runs_out_by_whichever_clock_went_further() {
        let ago = Duration::from_secs(10);
        let lease = Lease::new(Duration::from_secs(5));
        assert!(!lease.is_valid(), "nothing was confirmed yet");
        lease.renew(Moment::now());
        assert!(lease.is_valid());
        // As after a sleep of the machine.
        lease.renew(Moment { wall: SystemTime::now() - ago, ..Moment::now() });
        assert!(!lease.is_valid());
        // The wall clock was set back meanwhile.
        lease.renew(Moment { wall: SystemTime::now() + ago, ..Moment::now() });
        assert!(lease.is_valid());
    }
}
