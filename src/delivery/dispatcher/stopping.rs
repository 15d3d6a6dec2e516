//! After the stop.

use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::Dispatcher;
use crate::delivery::recorder::Report;

impl Dispatcher {
    /// Nothing new is started; what is under way may end within the grace time and is recorded, and then the cursors.
    pub(super) async fn finish(&mut self) {
        self.fetches.abort_all();
        let deadline = Instant::now() + self.grace;
        let mut cursors_started = false;
        while self.owner {
            self.record_at = Instant::now();
            self.start_recording();
            let quiet = self.busy.is_empty() && !self.recording;
            if quiet && std::mem::replace(&mut cursors_started, true) {
                return;
            }
            self.cursors_due = quiet;
            self.start_recording();
            if quiet && !self.recording {
                return;
            }
            tokio::select! {
                biased;
                Some(report) = self.reports.recv() => match report {
                    Report::Owned { .. } => {}
                    report => self.on_report(report),
                },
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
