//! Waiting for a condition, with a deadline and the last state in the failure.

use std::fmt::Debug;
use std::panic::Location;
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Runs `check` until it gives `Ok`; panics with the last `Err` and the caller's place once `deadline` is over.
#[track_caller]
pub fn eventually<T, E: Debug, F: Future<Output = Result<T, E>>>(
    what: &str,
    deadline: Duration,
    mut check: impl FnMut() -> F,
) -> impl Future<Output = T> {
    let (caller, end) = (Location::caller(), Instant::now() + deadline);
    async move {
        loop {
            let state = match check().await {
                Ok(value) => return value,
                Err(state) => state,
            };
            assert!(Instant::now() < end, "{caller}: not within {deadline:?}: {what}; last state: {state:#?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Awaits a future; panics with the caller's place once `deadline` is over.
#[track_caller]
pub fn within<T>(what: &str, deadline: Duration, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        match tokio::time::timeout(deadline, future).await {
            Ok(value) => value,
            Err(_) => panic!("{caller}: not within {deadline:?}: {what}"),
        }
    }
}
