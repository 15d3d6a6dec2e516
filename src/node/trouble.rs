//! Whether this node cannot do what it says by its heartbeats that it can: others leave it its share of the lanes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shared by who owns lanes and who speaks for the node.
#[derive(Clone, Debug, Default)]
pub struct Trouble(Arc<Mutex<Option<Instant>>>);

impl Trouble {
    /// Lanes cannot be owned, or nothing recorded in them. It may have begun before.
    pub fn begins(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
    }

    /// It works.
    pub fn is_over(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether it has lasted for longer than this.
    pub fn lasts(&self, longer_than: Duration) -> bool {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() > longer_than)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_its_first_sign_until_it_is_over() {
        let trouble = Trouble::default();
        assert!(!trouble.lasts(Duration::ZERO));
        trouble.begins();
        let since = *trouble.0.lock().expect("nobody panicked");
        trouble.begins();
        assert_eq!(*trouble.0.lock().expect("nobody panicked"), since);
        while !trouble.lasts(Duration::from_micros(1)) {}
        assert!(!trouble.lasts(Duration::from_secs(3600)));
        trouble.is_over();
        assert!(!trouble.lasts(Duration::ZERO));
    }
}
