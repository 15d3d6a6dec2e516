//! What an outcome means: delivered, tried again, or dead. The one place where this is decided.

use crate::model::{Outcome, RetryConf, Timestamp, Verdict};

/// The longest a webhook may ask us to wait with `Retry-After`, in seconds.
pub const LONGEST_RETRY_AFTER_SEC: u64 = 24 * 60 * 60;

/// Decides what follows from an attempt, as Hasura does (reference/hasura.md, 3.2): any 2xx is success; otherwise
/// `Retry-After` sets the pause and forces another attempt even when retries are used up; otherwise the event is tried
/// again after the fixed interval until `num_retries` more attempts were made.
///
/// `number` counts the attempts before this one in its round; `now` is when this one ended.
pub fn decide(number: u32, outcome: &Outcome, now: Timestamp, conf: &RetryConf) -> Verdict {
    if outcome.is_success() {
        return Verdict::Delivered;
    }
    let retry_after = match outcome {
        Outcome::Answered(response) => response.retry_after_sec,
        Outcome::Failed(_) => None,
    };
    match retry_after {
        Some(seconds) => Verdict::RetryAt(now.plus_seconds(seconds.min(LONGEST_RETRY_AFTER_SEC))),
        None if number < conf.num_retries => Verdict::RetryAt(now.plus_seconds(u64::from(conf.interval_sec))),
        None => Verdict::Dead,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Response;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn answered(status: u16, retry_after_sec: Option<u64>) -> Outcome {
        Outcome::Answered(Response { status, retry_after_sec, head: String::new() })
    }

    fn check(number: u32, outcome: &Outcome, expected: Verdict) {
        let conf = RetryConf { num_retries: 2, interval_sec: 10, timeout_sec: 60 };
        assert_eq!(decide(number, outcome, NOW, &conf), expected, "attempt {number}, {outcome:?}");
    }

    #[test]
    fn every_2xx_is_delivered_whatever_else_it_says() {
        for status in [200, 201, 204, 299] {
            check(0, &answered(status, None), Verdict::Delivered);
            check(9, &answered(status, Some(5)), Verdict::Delivered);
        }
    }

    #[test]
    fn anything_else_is_retried_until_the_retries_are_used_up() {
        let later = Verdict::RetryAt(Timestamp(11_000_000));
        let failures = [100, 199, 301, 304, 400, 404, 410, 429, 500, 503, 599].map(|status| answered(status, None));
        for outcome in failures.iter().chain([&Outcome::Failed("timed out".into())]) {
            check(0, outcome, later);
            check(1, outcome, later);
            check(2, outcome, Verdict::Dead);
            check(u32::MAX, outcome, Verdict::Dead);
        }
    }

    #[test]
    fn retry_after_sets_the_pause_and_forces_an_attempt() {
        check(0, &answered(503, Some(3)), Verdict::RetryAt(Timestamp(4_000_000)));
        check(2, &answered(429, Some(3)), Verdict::RetryAt(Timestamp(4_000_000)));
        let longest = NOW.plus_seconds(LONGEST_RETRY_AFTER_SEC);
        check(0, &answered(503, Some(u64::MAX)), Verdict::RetryAt(longest));
    }
}
