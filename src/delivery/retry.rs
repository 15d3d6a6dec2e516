//! What an outcome means: delivered, tried again, dead, or held. The one place where this is decided.

use crate::model::{Backoff, EventId, Outcome, RetryConf, Timestamp, Verdict};

/// 410 Gone: nothing is at this address any more.
const GONE: u16 = 410;

/// An attempt that ended.
#[derive(Clone, Copy, Debug)]
pub struct Tried<'a> {
    /// Of which event.
    pub event_id: EventId,
    /// When that event's transaction committed.
    pub committed_at: Timestamp,
    /// The attempts before this one in its round.
    pub number: u32,
    /// How it ended.
    pub outcome: &'a Outcome,
    /// When it ended, at the latest: a pause is never too short.
    pub now: Timestamp,
    /// Whether the attempt of this trigger that ended last before it was answered with 410.
    pub was_gone: bool,
    /// Whether it is one of the retries that the policy allows; one that failed with its endpoint's outage is not.
    pub counts: bool,
}

/// Whether the endpoint says that it is gone.
pub fn is_gone(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Answered(response) if response.status == GONE)
}

/// Whether the endpoint says for the first time that it is gone: a second time in a row would pause its trigger.
pub fn is_first_gone(outcome: &Outcome, was_gone: bool, conf: &RetryConf) -> bool {
    is_gone(outcome) && !was_gone && !conf.gives_up_on(GONE)
}

/// Decides what follows from an attempt. Without walhook's own keys in `retry_conf` it is Hasura's rule
/// (reference/hasura.md, 3.2): any 2xx is success; otherwise `Retry-After` sets the pause and forces another attempt
/// even when retries are used up; otherwise the event is tried again after the interval until `num_retries` more were
/// made.
///
/// 410 twice in a row pauses the trigger, which Hasura does not have; then nothing is spent of the event's retries. An
/// attempt that does not count is followed by another one even when retries are used up.
///
/// walhook's own keys: a status of `give_up_on` and an age past `max_age_sec` end the retries whatever else holds;
/// under exponential backoff a `Retry-After` never shortens a pause; jitter only ever adds to one. No `Retry-After`
/// counts for more than `longest_retry_after_sec`.
pub fn decide(tried: &Tried<'_>, conf: &RetryConf, longest_retry_after_sec: u64) -> Verdict {
    let (status, retry_after_sec) = match tried.outcome {
        outcome if outcome.is_success() => return Verdict::Delivered,
        Outcome::Answered(response) => (Some(response.status), response.retry_after_sec),
        Outcome::Failed(_) => (None, None),
    };
    if status.is_some_and(|status| conf.gives_up_on(status)) {
        return Verdict::Dead;
    }
    if tried.was_gone && is_gone(tried.outcome) {
        return Verdict::Paused;
    }
    let own_pause = u64::from(conf.pause_sec(tried.number));
    let pause_sec = match retry_after_sec.map(|seconds| seconds.min(longest_retry_after_sec)) {
        Some(asked) if conf.backoff == Backoff::Exponential => asked.max(own_pause),
        Some(asked) => asked,
        None if !tried.counts || tried.number < conf.num_retries => own_pause,
        None => return Verdict::Dead,
    };
    let due = Timestamp(tried.now.plus_seconds(pause_sec).0.saturating_add(jitter_micros(tried, pause_sec, conf)));
    match conf.max_age_sec {
        Some(age) if due > tried.committed_at.plus_seconds(u64::from(age)) => Verdict::Dead,
        _ => Verdict::RetryAt(due),
    }
}

/// A part of the pause that differs from event to event and from attempt to attempt, and is the same each time it is
/// asked for.
fn jitter_micros(tried: &Tried<'_>, pause_sec: u64, conf: &RetryConf) -> i64 {
    let most = u128::from(pause_sec) * 1_000_000 * u128::from(conf.jitter_percent()) / 100;
    // An id's second half is a hash already; the multiplier (2^64 over the golden ratio) spreads the numbers.
    let hash = tried.event_id.as_u64_pair().1 ^ u64::from(tried.number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let share = u128::from(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32);
    i64::try_from((most * share) >> 32).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::model::{Failure, FailureKind, Response, Statuses};

    const COMMITTED_AT: Timestamp = Timestamp(0);
    const NOW: Timestamp = Timestamp(1_000_000);
    const LONGEST_RETRY_AFTER_SEC: u64 = 86_400;

    fn answered(status: u16, retry_after_sec: Option<u64>) -> Outcome {
        Outcome::Answered(Response { status, retry_after_sec, ..Response::default() })
    }

    fn broken() -> Outcome {
        Outcome::Failed(Failure { kind: FailureKind::Timeout, text: "timed out".into() })
    }

    fn hasura() -> RetryConf {
        RetryConf { num_retries: 2, interval_sec: 10, ..Default::default() }
    }

    fn tried(number: u32, outcome: &Outcome) -> Tried<'_> {
        let event_id = Uuid::from_u128(7);
        Tried { event_id, committed_at: COMMITTED_AT, number, outcome, now: NOW, was_gone: false, counts: true }
    }

    fn decided(tried: &Tried<'_>, conf: &RetryConf) -> Verdict {
        decide(tried, conf, LONGEST_RETRY_AFTER_SEC)
    }

    fn after(seconds: u64) -> Verdict {
        Verdict::RetryAt(NOW.plus_seconds(seconds))
    }

    /// Every class of status and every failure under every policy: what becomes of an attempt with this number.
    #[test]
    fn the_table_of_decisions() {
        let exponential = RetryConf { backoff: Backoff::Exponential, jitter_percent: Some(0), ..hasura() };
        let short = RetryConf { max_interval_sec: Some(15), ..exponential.clone() };
        let picky = RetryConf { give_up_on: vec![Statuses::One(422), Statuses::Class(5)], ..hasura() };
        let young = RetryConf { max_age_sec: Some(11), ..hasura() };
        let younger = RetryConf { max_age_sec: Some(10), ..hasura() };
        let no_retries = RetryConf { num_retries: 0, ..hasura() };
        let delivered = Verdict::Delivered;
        let dead = Verdict::Dead;
        let longest = after(LONGEST_RETRY_AFTER_SEC);
        #[rustfmt::skip]
        let table = [
            // conf, number, outcome, what follows
            (&hasura(),    0,        answered(200, None),           delivered),
            (&hasura(),    9,        answered(299, Some(5)),        delivered),
            (&no_retries,  0,        answered(204, None),           delivered),
            (&picky,       0,        answered(201, None),           delivered),
            (&younger,     0,        answered(200, None),           delivered),

            (&hasura(),    0,        answered(100, None),           after(10)),
            (&hasura(),    0,        answered(199, None),           after(10)),
            (&hasura(),    0,        answered(301, None),           after(10)),
            (&hasura(),    1,        answered(304, None),           after(10)),
            (&hasura(),    1,        answered(400, None),           after(10)),
            (&hasura(),    0,        answered(404, None),           after(10)),
            (&hasura(),    0,        answered(410, None),           after(10)),
            (&hasura(),    0,        answered(429, None),           after(10)),
            (&hasura(),    1,        answered(500, None),           after(10)),
            (&hasura(),    1,        answered(599, None),           after(10)),
            (&hasura(),    1,        broken(),                      after(10)),
            (&hasura(),    2,        answered(503, None),           dead),
            (&hasura(),    2,        broken(),                      dead),
            (&hasura(),    u32::MAX, answered(404, None),           dead),
            (&no_retries,  0,        answered(500, None),           dead),

            (&hasura(),    0,        answered(503, Some(3)),        after(3)),
            (&hasura(),    2,        answered(429, Some(3)),        after(3)),
            (&hasura(),    9,        answered(301, Some(30)),       after(30)),
            (&hasura(),    0,        answered(503, Some(u64::MAX)), longest),

            (&exponential, 0,        broken(),                      after(10)),
            (&exponential, 1,        answered(500, None),           after(20)),
            (&exponential, 2,        answered(500, None),           dead),
            (&exponential, 1,        answered(503, Some(3)),        after(20)),
            (&exponential, 1,        answered(503, Some(30)),       after(30)),
            (&exponential, 3,        answered(429, Some(1)),        after(80)),
            (&short,       1,        answered(500, None),           after(15)),

            (&picky,       0,        answered(422, None),           dead),
            (&picky,       0,        answered(503, Some(3)),        dead),
            (&picky,       0,        answered(404, None),           after(10)),
            (&picky,       0,        broken(),                      after(10)),

            (&young,       0,        answered(500, None),           after(10)),
            (&younger,     0,        answered(500, None),           dead),
            (&younger,     0,        broken(),                      dead),
            (&younger,     0,        answered(503, Some(3)),        after(3)),
            (&younger,     0,        answered(503, Some(60)),       dead),
        ];
        for (conf, number, outcome, expected) in table {
            let tried = tried(number, &outcome);
            assert_eq!(decided(&tried, conf), expected, "attempt {number}, {outcome:?}, {conf:?}");
            let after_gone = if is_gone(&outcome) { Verdict::Paused } else { expected };
            assert_eq!(
                decided(&Tried { was_gone: true, ..tried }, conf),
                after_gone,
                "after 410: {outcome:?}, {conf:?}"
            );
        }
    }

    /// What becomes of an attempt after one that was answered with 410.
    #[test]
    fn a_second_410_pauses_whatever_retries_are_left() {
        let none_left = RetryConf { num_retries: 0, ..hasura() };
        let old = RetryConf { max_age_sec: Some(0), ..hasura() };
        let gives_up = RetryConf { give_up_on: vec![Statuses::One(410)], ..hasura() };
        let gives_up_on_all = RetryConf { give_up_on: vec![Statuses::Class(4)], ..hasura() };
        #[rustfmt::skip]
        let table = [
            (&hasura(),         0,        answered(410, None),     Verdict::Paused),
            (&hasura(),         0,        answered(410, Some(30)), Verdict::Paused),
            (&hasura(),         u32::MAX, answered(410, None),     Verdict::Paused),
            (&none_left,        0,        answered(410, None),     Verdict::Paused),
            (&old,              0,        answered(410, None),     Verdict::Paused),
            (&gives_up,         0,        answered(410, None),     Verdict::Dead),
            (&gives_up_on_all,  0,        answered(410, None),     Verdict::Dead),
            (&none_left,        0,        answered(404, None),     Verdict::Dead),
            (&hasura(),         0,        answered(411, None),     after(10)),
            (&hasura(),         0,        broken(),                after(10)),
            (&hasura(),         0,        answered(200, None),     Verdict::Delivered),
        ];
        for (conf, number, outcome, expected) in table {
            let tried = Tried { was_gone: true, ..tried(number, &outcome) };
            assert_eq!(decided(&tried, conf), expected, "attempt {number}, {outcome:?}, {conf:?}");
        }
    }

    #[test]
    fn an_attempt_in_an_outage_is_followed_by_another_but_rules_that_end_an_event_hold() {
        let no_retries = RetryConf { num_retries: 0, ..hasura() };
        let picky = RetryConf { give_up_on: vec![Statuses::One(503)], ..hasura() };
        let younger = RetryConf { max_age_sec: Some(10), ..hasura() };
        for (conf, number, outcome, expected) in [
            (&no_retries, 0, broken(), after(10)),
            (&hasura(), 2, answered(503, None), after(10)),
            (&hasura(), 2, answered(503, Some(3)), after(3)),
            (&picky, 2, answered(503, None), Verdict::Dead),
            (&younger, 2, broken(), Verdict::Dead),
        ] {
            let tried = Tried { counts: false, ..tried(number, &outcome) };
            assert_eq!(decided(&tried, conf), expected, "attempt {number}, {outcome:?}, {conf:?}");
        }
    }

    #[test]
    fn jitter_only_adds_and_differs_from_event_to_event() {
        let conf =
            RetryConf { num_retries: 99, backoff: Backoff::Exponential, max_interval_sec: Some(100), ..hasura() };
        let mut seen = std::collections::HashSet::new();
        for event in 0..100 {
            for number in 0..10 {
                let outcome = answered(503, None);
                let event_id = Uuid::from_u128(event);
                let tried = Tried { event_id, ..tried(number, &outcome) };
                let Verdict::RetryAt(due) = decided(&tried, &conf) else { panic!("dead") };
                let (pause, waited) = (i64::from(conf.pause_sec(number)) * 1_000_000, due.0 - NOW.0);
                assert!((pause..=pause + pause / 5).contains(&waited), "{waited} for a pause of {pause}");
                seen.insert(waited);
                assert_eq!(decided(&tried, &conf), Verdict::RetryAt(due), "the same again");
            }
        }
        assert!(seen.len() > 900, "{} different pauses of 1000", seen.len());
        assert_eq!(conf.jitter_percent(), 20);
    }
}
