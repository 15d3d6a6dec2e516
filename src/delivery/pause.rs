//! Whether a trigger is paused: by its operator, as the catalogue says, or by its endpoint, which says that it is gone.
//! No I/O.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;

use super::retry;
use crate::model::Outcome;

/// One trigger's.
#[derive(Debug, Default)]
pub(super) struct Pause {
    state: State,
    gone: Gone,
    /// What began before says nothing about the time after it.
    resumed_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// As the catalogue says.
    Paused,
    /// By an endpoint that is gone. The catalogue is not asked before a load that surely sees it there.
    Gone { recorded: bool },
}

impl Pause {
    /// Whether nothing may be read or sent.
    pub(super) fn is_on(&self) -> bool {
        self.state != State::Open
    }

    /// The note that this trigger's attempts share.
    pub(super) fn gone(&self) -> Gone {
        self.gone.clone()
    }

    /// What the catalogue says. Gives whether that is a change.
    pub(super) fn is_told(&mut self, paused: bool) -> bool {
        let state = if paused { State::Paused } else { State::Open };
        if matches!(self.state, State::Gone { .. }) || self.state == state {
            return false;
        }
        self.state = state;
        // One that was resumed is tried anew, whatever is still answered to what was sent before.
        self.gone = Gone::default();
        self.resumed_at = (!paused).then(Instant::now);
        true
    }

    /// The endpoint is gone, by the answer to an attempt that began then. Gives whether that is news.
    pub(super) fn endpoint_is_gone(&mut self, started_at: Instant) -> bool {
        let news = !self.is_on() && self.resumed_at.is_none_or(|resumed_at| started_at > resumed_at);
        if news {
            self.state = State::Gone { recorded: false };
        }
        news
    }

    /// Lanes changed hands: what was to be recorded may have been thrown away, so the catalogue is believed.
    pub(super) fn begin_anew(&mut self) {
        if let State::Gone { recorded: false } = self.state {
            self.state = State::Open;
        }
    }

    /// The catalogue says so as well now.
    pub(super) fn is_recorded(&mut self) {
        if let State::Gone { recorded } = &mut self.state {
            *recorded = true;
        }
    }

    /// The catalogue is read from now on.
    pub(super) fn load_starts(&mut self) {
        if self.state == (State::Gone { recorded: true }) {
            self.state = State::Paused;
        }
    }
}

/// Whether the attempt of a trigger that ended last, since it was resumed, was answered with 410 Gone.
#[derive(Clone, Debug, Default)]
pub(super) struct Gone(Arc<AtomicBool>);

impl Gone {
    /// Takes note of an attempt that ended. Gives whether the one that ended before it was answered with 410.
    pub(super) fn note(&self, outcome: &Outcome) -> bool {
        self.0.swap(retry::is_gone(outcome), Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Failure, FailureKind, Response};

    fn answered(status: u16) -> Outcome {
        Outcome::Answered(Response { status, ..Response::default() })
    }

    #[test]
    fn the_catalogue_pauses_and_resumes() {
        let mut pause = Pause::default();
        assert!(!pause.is_on() && !pause.is_told(false));
        assert!(pause.is_told(true) && pause.is_on());
        assert!(!pause.is_told(true) && pause.is_told(false));
        assert!(!pause.is_on());
    }

    #[test]
    fn a_load_that_may_not_have_seen_the_endpoints_pause_does_not_end_it() {
        let mut pause = Pause::default();
        pause.load_starts();
        let now = Instant::now();
        assert!(pause.endpoint_is_gone(now) && !pause.endpoint_is_gone(now));
        assert!(!pause.is_told(false) && pause.is_on(), "it began before");
        pause.load_starts();
        pause.is_recorded();
        assert!(!pause.is_told(false) && pause.is_on(), "it began before the record");
        pause.load_starts();
        assert!(!pause.is_told(true) && pause.is_on());
        assert!(pause.is_told(false) && !pause.is_on(), "resumed");
    }

    #[test]
    fn only_two_410_in_a_row_count_and_a_resumed_trigger_starts_anew() {
        let mut pause = Pause::default();
        let gone = pause.gone();
        let before: Vec<bool> = [410, 200, 410, 410].map(|status| gone.note(&answered(status))).into();
        assert_eq!(before, [false, true, false, true]);
        let refused = Failure { kind: FailureKind::Connect, text: "refused".into() };
        assert!(gone.note(&Outcome::Failed(refused)) && !gone.note(&answered(410)));
        let before = Instant::now();
        assert!(pause.is_told(true) && pause.is_told(false));
        assert!(!pause.gone().note(&answered(410)));
        // What was sent before is answered late.
        assert!(gone.note(&answered(410)));
        assert!(!pause.endpoint_is_gone(before) && !pause.is_on());
        assert!(pause.gone().note(&answered(410)));
        assert!(pause.endpoint_is_gone(Instant::now()) && pause.is_on());
    }
}
