//! One HTTP request for one event, and what came of it.

use super::Timestamp;

/// How an attempt ended, before any policy looked at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The webhook answered, with any status.
    Answered(Response),
    /// There was no answer: refused, reset, timed out, not HTTP.
    Failed(Failure),
}

/// Why there was no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which kind of failure.
    pub kind: FailureKind,
    /// What happened. Names no secret and no row value.
    pub text: String,
}

/// How far a request came that got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The name did not resolve, or no connection came about.
    Connect,
    /// The time for an attempt was over before there was a connection that it could be written to.
    ConnectTimeout,
    /// It was over later.
    Timeout,
    /// The connection broke, or what came was no HTTP.
    Broken,
}

/// The part of an answer that is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// How long `Retry-After` asks to wait, from when the answer came.
    pub retry_after_sec: Option<u64>,
    /// The head of the body, cut at `delivery`'s limit, with what is not UTF-8 replaced.
    pub head: String,
    /// Why this answer to several events does not accept the one at hand, though its status is 2xx.
    pub refused: Option<&'static str>,
}

impl Outcome {
    /// Any 2xx is success (seed 004), unless it refuses the event.
    pub fn is_success(&self) -> bool {
        matches!(self, Outcome::Answered(response)
            if (200..300).contains(&response.status) && response.refused.is_none())
    }
}

/// What the retry policy makes of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Accepted by the webhook: the event is done.
    Delivered,
    /// To be tried again, not before this time.
    RetryAt(Timestamp),
    /// Retries are used up: the event stays in the log and can be redelivered.
    Dead,
    /// The endpoint says that it is gone: the trigger is paused, and the event waits for it without a retry spent.
    Paused,
}

/// An attempt that ended: what the attempt log keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Earlier attempts of this round; `delivery_info.current_retry` in the payload.
    pub number: u32,
    /// When the request was started.
    pub started_at: Timestamp,
    /// From the start of the request to the end of the answer, in microseconds.
    pub duration_micros: i64,
    /// How it ended.
    pub outcome: Outcome,
    /// What follows from that.
    pub verdict: Verdict,
}
