//! After the stop.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::Dispatcher;
use crate::model::LaneSet;

/// So long at most a session is waited for that was lost: whoever stops walhook may have stopped Postgres before.
const SESSION_COMES_BACK: Duration = Duration::from_secs(5);

impl Dispatcher {
    /// Nothing new is started. What is under way may end within the grace time and is recorded; lanes are given back as
    /// soon as nothing of them is under way, so that others go on.
    pub(super) async fn finish(&mut self) {
        self.fetches.abort_all();
        let deadline = Instant::now() + self.grace;
        let mut saved = LaneSet::NONE;
        let mut lost_at = None;
        self.record_at = Instant::now();
        loop {
            self.stop_changing();
            self.start_recording();
            self.leave(&mut saved);
            if !self.owner && self.busy.is_empty() {
                return;
            }
            lost_at = if self.owner { None } else { lost_at.or_else(|| Some(Instant::now())) };
            let until = lost_at.map_or(deadline, |at| deadline.min(at + SESSION_COMES_BACK));
            tokio::select! {
                biased;
                Some(report) = self.reports.recv() => self.on_report(report),
                Some(ended) = self.ended.recv() => self.on_ended(ended),
                () = sleep_until(self.record_at), if self.waits_to_record() => {}
                () = sleep_until(until) => {
                    let left = self.busy.len();
                    let why = if until < deadline { "the lanes do not come back" } else { "the grace time is over" };
                    warn!("{why}: {left} events will be sent again after the next start");
                    // Less those that ended just now.
                    self.record_at = Instant::now();
                    self.start_recording();
                    return;
                }
            }
        }
    }
}
