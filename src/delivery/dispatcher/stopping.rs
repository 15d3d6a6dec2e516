//! After the stop.

use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::Dispatcher;
use crate::model::LaneSet;

impl Dispatcher {
    /// Nothing new is started. What is under way may end within the grace time and is recorded; lanes are given back as
    /// soon as nothing of them is under way, so that others go on.
    pub(super) async fn finish(&mut self) {
        self.fetches.abort_all();
        let deadline = Instant::now() + self.grace;
        let mut saved = LaneSet::NONE;
        loop {
            self.record_at = Instant::now();
            self.stop_changing();
            self.start_recording();
            self.leave(&mut saved);
            if !self.owner {
                return;
            }
            tokio::select! {
                biased;
                Some(report) = self.reports.recv() => self.on_report(report),
                Some(ended) = self.ended.recv() => self.on_ended(ended),
                () = sleep_until(deadline) => {
                    let left = self.busy.len();
                    warn!("the grace time is over: {left} events will be sent again after the next start");
                    return;
                }
            }
        }
    }
}
