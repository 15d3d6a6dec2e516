//! What came of the deliveries since this process began, and how they are, for whoever watches. Plain numbers of the
//! dispatcher's task: counting an attempt is a few additions, and only who asks pays for a copy.

use crate::model::{Attempt, Definition, FailureKind, Outcome, Verdict};

/// How attempts end, as far as they are told apart: the class of the answer's status, or why there was none.
pub const OUTCOMES: [&str; 8] = ["2xx", "3xx", "4xx", "5xx", "other", "connect", "timeout", "broken"];
/// Upper bounds of the classes of duration, in microseconds. What took longer is in one more class.
pub const DURATIONS_MICROS: [i64; 12] =
    [5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000];

/// What is counted of a trigger's attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By [`OUTCOMES`].
    pub attempts: [u64; OUTCOMES.len()],
    /// By [`DURATIONS_MICROS`].
    pub durations: [u64; DURATIONS_MICROS.len() + 1],
    /// All durations together, in microseconds.
    pub duration_micros: u64,
    /// Events that were accepted.
    pub delivered: u64,
    /// Events whose retries were used up.
    pub dead: u64,
}

impl Counts {
    pub(super) fn note(&mut self, attempt: &Attempt) {
        self.attempts[class(&attempt.outcome)] += 1;
        let micros = attempt.duration_micros;
        self.durations[DURATIONS_MICROS.partition_point(|bound| *bound < micros)] += 1;
        self.duration_micros += u64::try_from(micros).unwrap_or(0);
        match attempt.verdict {
            Verdict::Delivered => self.delivered += 1,
            Verdict::Dead => self.dead += 1,
            Verdict::RetryAt(_) | Verdict::Paused => {}
        }
    }
}

/// The place in [`OUTCOMES`].
fn class(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Answered(response) => match response.status / 100 {
            hundreds @ 2..=5 => usize::from(hundreds) - 2,
            _ => 4,
        },
        Outcome::Failed(failure) => match failure.kind {
            FailureKind::Connect => 5,
            FailureKind::Timeout | FailureKind::ConnectTimeout => 6,
            FailureKind::Broken => 7,
        },
    }
}

/// What a trigger's attempts are counted under.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    pub(super) source: String,
    pub(super) trigger: String,
    pub(super) counts: Counts,
}

impl Meter {
    /// Takes the names over.
    pub(super) fn is_of(&mut self, definition: &Definition) {
        self.source.clone_from(&definition.source);
        self.trigger.clone_from(&definition.name);
    }
}

/// A trigger's deliveries.
#[derive(Clone, Debug)]
pub struct TriggerFigures {
    /// Its source's name.
    pub source: String,
    /// Its name.
    pub trigger: String,
    /// What is counted.
    pub counts: Counts,
    /// Requests under way.
    pub in_flight: usize,
    /// Rows whose events wait for one that failed.
    pub held_rows: usize,
    /// Whether its endpoint is down.
    pub is_down: bool,
    /// Whether it is paused.
    pub is_paused: bool,
}

/// The deliveries of this node.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// How many lanes are its own.
    pub lanes: u8,
    /// Each trigger.
    pub triggers: Vec<TriggerFigures>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Failure, Response, Timestamp};

    #[test]
    fn attempts_are_counted_by_outcome_duration_and_what_follows() {
        let answered = |status| Outcome::Answered(Response { status, ..Response::default() });
        let failed = |kind| Outcome::Failed(Failure { kind, text: String::new() });
        let again = Verdict::RetryAt(Timestamp(0));
        let mut counts = Counts::default();
        for (outcome, duration_micros, verdict) in [
            (answered(204), 5_000, Verdict::Delivered),
            (answered(200), 5_001, Verdict::Delivered),
            (answered(302), 7_000, again),
            (answered(410), 8_000, Verdict::Paused),
            (answered(599), 9_000, again),
            (answered(700), 9_000, again),
            (failed(FailureKind::Connect), -1, again),
            (failed(FailureKind::Timeout), 60_000_000, again),
            (failed(FailureKind::Broken), 30_000_000, Verdict::Dead),
        ] {
            counts.note(&Attempt { number: 0, started_at: Timestamp(0), duration_micros, outcome, verdict });
        }
        assert_eq!(counts.attempts, [2, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(counts.durations, [2, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((counts.delivered, counts.dead, counts.duration_micros), (2, 1, 90_043_001));
    }
}
