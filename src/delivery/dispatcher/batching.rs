//! What the dispatcher does for triggers whose events go several in a request: each batch counts as one request, for
//! every limit and for the endpoint's breaker.

use std::sync::Arc;

use tokio::time::Instant;
use uuid::Uuid;

use super::{Dispatcher, TURN};
use crate::delivery::attempt::EndedRequest;
use crate::delivery::batch;
use crate::delivery::tenure::Terms;
use crate::delivery::trigger_queue::batching::{NextBatch, bytes_under_way};

impl Dispatcher {
    /// Requests under way, or whose outcome is to be recorded; an event of a batch that ended counts by itself.
    pub(super) fn busy_requests(&self) -> usize {
        // Events of lanes that were lost are forgotten before their requests end.
        self.busy.len().saturating_sub(self.busy_beside)
    }

    /// A trigger's turn. Gives whether it has more to send and only the others' part of all is left.
    pub(super) fn start_batches(&mut self, id: Uuid) -> bool {
        let triggers = self.triggers.len();
        for _ in 0..TURN {
            if self.budget.is_full() || self.busy_requests() + TURN > self.max_busy {
                break;
            }
            let Some(queue) = self.triggers.get_mut(&id) else { return false };
            if !self.budget.allows(queue.limiter.under_way(), triggers) {
                return queue.can_send();
            }
            let is_probe = queue.is_probing();
            match queue.next_batch(Instant::now()) {
                NextBatch::Send(batch, endpoint) => {
                    let (gone, probe) = (queue.pause.gone(), is_probe.then(|| batch.first_id()));
                    self.busy.extend(batch.busy());
                    self.busy_beside += batch.len() - 1;
                    self.budget.taken().add(bytes_under_way(&batch));
                    let (client, ended) = (Arc::clone(&self.client), self.ended_sender.clone());
                    let (url, terms) = (endpoint.url.clone(), *self.lanes.terms());
                    let permit = self.gate.permit_all(batch.lanes(), &terms);
                    tokio::spawn(async move {
                        let request = batch::send(&client, endpoint, gone, batch, &permit).await;
                        drop(ended.send(EndedRequest::Batch(terms, request)));
                    });
                    if let Some(event_id) = probe {
                        self.on_probe(&url, event_id);
                        return false;
                    }
                }
                NextBatch::At(at) => {
                    self.paced.insert((at, id));
                    self.look_after_turn(id);
                    return false;
                }
                NextBatch::Nothing => break,
            }
        }
        self.look_after_turn(id);
        if self.triggers.get(&id).is_some_and(|queue| queue.can_send()) {
            self.give_turn(id);
        }
        false
    }

    fn look_after_turn(&mut self, id: Uuid) {
        if let Some(queue) = self.triggers.get(&id) {
            self.look_for_parked |= queue.wants_to_park();
            // What there was for a probe may wait behind others.
            self.look_for_reads |= queue.is_probing();
        }
    }

    /// `terms` are those of the request's start.
    pub(super) fn on_batch_ended(&mut self, terms: &Terms, ended: batch::Ended) {
        let counts = self.judge(ended.batch.first_id(), &ended.request, &ended.outcome);
        self.budget.taken().remove(bytes_under_way(&ended.batch));
        self.busy_beside -= ended.batch.len() - 1;
        let kept = self.lanes.terms().same(terms);
        let (id, longest_retry_after_sec) = (ended.request.endpoint.trigger_id, self.longest_retry_after.as_secs());
        let (settled, over) = match self.triggers.get_mut(&id) {
            Some(queue) => queue.batch_ended(ended, kept, counts, longest_retry_after_sec),
            // It was deleted, or this node stops: what was accepted must not come again.
            None => ended.settle(kept, counts, longest_retry_after_sec),
        };
        for event in over {
            self.busy.remove(&event);
        }
        if let Some(queue) = self.triggers.get_mut(&id) {
            self.look_for_reads |= !queue.is_live();
            self.look_for_parked |= queue.wants_to_park();
            if queue.can_send() {
                self.give_turn(id);
            }
        }
        self.unrecorded.settled.extend(settled);
    }
}
