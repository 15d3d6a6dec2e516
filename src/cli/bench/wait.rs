//! Waiting with a deadline, without burdening what is waited for.

use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(1);
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Looks often until something holds; gives the moment at which it did.
///
/// # Errors
/// The look's own, and when it does not hold in time.
pub(super) async fn wait_until(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<Instant> {
    let end = Instant::now() + within;
    while !look().await? {
        anyhow::ensure!(Instant::now() < end, "not within {} s: {what}", within.as_secs());
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(Instant::now())
}

/// Waits until a count is reached; gives the moment. It looks seldom while much is missing and often near the end.
///
/// # Errors
/// The look's own, and when the count is not reached in time.
pub(super) async fn wait_for_count(
    what: &str,
    target: u64,
    within: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<u64>,
) -> anyhow::Result<Instant> {
    let started = Instant::now();
    loop {
        let count = look().await?;
        if count >= target {
            return Ok(Instant::now());
        }
        let elapsed = started.elapsed();
        anyhow::ensure!(elapsed < within, "{count} of {target} after {} s: {what}", within.as_secs());
        tokio::time::sleep(pause(elapsed, count, target)).await;
    }
}

/// Half of the time that is still needed at the rate so far.
fn pause(elapsed: Duration, count: u64, target: u64) -> Duration {
    let needed = elapsed.as_secs_f64() * (target - count) as f64 / count.max(1) as f64;
    Duration::from_secs_f64((needed / 2.0).min(LONGEST_PAUSE.as_secs_f64())).max(SHORTEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearer_the_end_the_more_often_it_looks() {
        let second = Duration::from_secs(1);
        assert_eq!(pause(second, 0, 1000), LONGEST_PAUSE);
        assert_eq!(pause(second, 500, 1000), LONGEST_PAUSE);
        assert!(pause(second, 980, 1000) < Duration::from_millis(11));
        assert_eq!(pause(second, 999, 1000), SHORTEST_PAUSE);
    }

    #[tokio::test]
    async fn a_wait_ends_with_the_count_or_at_its_deadline() {
        let mut count = 0;
        let counting = async || {
            count += 1;
            Ok(count)
        };
        wait_for_count("three", 3, Duration::from_secs(5), counting).await.expect("reached");
        assert_eq!(count, 3);
        let never = wait_until("never", Duration::ZERO, async || Ok(false)).await;
        assert!(never.expect_err("too late").to_string().contains("never"));
    }
}
