//! What a request's end changes, before its outcome is durable.

use tokio::time::Instant;
use tracing::warn;

use super::TriggerQueue;
use crate::delivery::limiter::Load;
use crate::model::Verdict;
use crate::queue::Settled;

impl TriggerQueue {
    /// A request that was started then ended, whatever its outcome.
    pub(in crate::delivery) fn request_ended(&mut self, settled: &Settled, size: usize, started_at: Instant) {
        self.limiter.ended(Load::of(&settled.attempt.outcome), size, started_at, Instant::now());
        if settled.attempt.verdict == Verdict::Paused {
            self.pause_gone(started_at);
        } else if let Ok(endpoint) = &self.endpoint {
            self.failures.note(&endpoint.name, &settled.attempt);
        }
        self.drop_behind(settled);
        // The next one need not wait until that is recorded: should it be forgotten, both come again, in their order.
        if settled.attempt.verdict == Verdict::Delivered {
            self.unlock(settled);
        }
    }

    /// What came along with an event that is to be tried again, or decided on, is fetched again after it.
    pub(super) fn drop_behind(&mut self, settled: &Settled) {
        if let Some(row) = settled.holds.filter(|_| settled.is_waiting()) {
            self.rows.drop_behind(row).into_iter().for_each(|event| self.hand.put_back(event));
        }
    }

    pub(super) fn pause_gone(&mut self, started_at: Instant) {
        if self.pause.endpoint_is_gone(started_at) {
            let trigger = self.endpoint.as_ref().map_or("", |endpoint| &endpoint.name);
            warn!(trigger, "its endpoint answered 410 Gone twice, so it is paused and its events are held; resume it");
        }
    }

    pub(super) fn unlock(&mut self, settled: &Settled) {
        if let Some(row) = settled.lock {
            self.rows.unlock(row, settled.event_id);
        }
    }
}
