//! What the log says of a trigger whose webhook fails: one line when it starts, one when it is over, however many
//! requests fail between.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::model::{Attempt, Outcome, Verdict};

/// A webhook that fails every other time is not worth a line each time.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// One trigger's failures since it last accepted an event.
#[derive(Debug, Default)]
pub(super) struct Failures {
    attempts: u64,
    dead: u64,
    last_line: Option<Instant>,
    told: bool,
}

impl Failures {
    /// Takes note of an attempt. Nothing of an answer's body is logged: it may repeat row values.
    pub(super) fn note(&mut self, trigger: &str, attempt: &Attempt) {
        if attempt.verdict == Verdict::Paused {
            // Said already, once, by who paused the trigger.
            return;
        }
        if attempt.verdict == Verdict::Delivered {
            if std::mem::take(&mut self.told) {
                let (attempts, dead) = (self.attempts, self.dead);
                info!(trigger, "its webhook accepts again; {attempts} attempts failed, {dead} events are dead");
            }
            (self.attempts, self.dead) = (0, 0);
            return;
        }
        self.attempts += 1;
        self.dead += u64::from(attempt.verdict == Verdict::Dead);
        if self.told || self.last_line.is_some_and(|line| line.elapsed() < BETWEEN_LINES) {
            return;
        }
        (self.told, self.last_line) = (true, Some(Instant::now()));
        warn!(trigger, "its webhook fails: {}; {}", reason(&attempt.outcome), next(attempt));
    }
}

/// What went wrong, without anything of the answer's body.
pub(super) fn reason(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Answered(response) => match response.refused {
            Some(why) => format!("it answered {}: {why}", response.status),
            None => format!("it answered {}", response.status),
        },
        Outcome::Failed(failure) => failure.text.clone(),
    }
}

fn next(attempt: &Attempt) -> String {
    match attempt.verdict {
        Verdict::RetryAt(due) => {
            let seconds = (due.0 - attempt.started_at.0 - attempt.duration_micros) as f64 / 1e6;
            format!("the event is sent again in {seconds:.0} s, other triggers go on")
        }
        Verdict::Delivered | Verdict::Dead | Verdict::Paused => {
            "retries are used up, the event stays in the log as dead; redeliver_event sends it again".into()
        }
    }
}
