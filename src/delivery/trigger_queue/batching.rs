//! A trigger whose events go several in a request.

use std::sync::Arc;

use tokio::time::{Duration, Instant};
use tracing::warn;

use super::{MAX_READY, TriggerQueue};
use crate::delivery::Endpoint;
use crate::delivery::batch::{self, EventBatch, Next};
use crate::delivery::limiter::Load;
use crate::delivery::outages::Flow;
use crate::delivery::retry;
use crate::delivery::rows::{Full, Ready};
use crate::model::{BatchConf, EventId, LaneSet, Outcome, Verdict};
use crate::queue::Settled;

/// A webhook that refuses batch after batch is not worth a line each time.
const BETWEEN_LINES: Duration = Duration::from_secs(60);

/// What a trigger that sends batches may do.
#[derive(Debug)]
pub(in crate::delivery) enum NextBatch {
    Nothing,
    /// The batch waits for more until then, or for the rate.
    At(Instant),
    Send(EventBatch, Arc<Endpoint>),
}

/// What batches that were answered tell of those to come.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    /// More events at a time were too large. Grows again by a quarter with each batch as large that is not.
    most_events: Option<usize>,
    /// When the log was last told that batches are refused.
    told_at: Option<Instant>,
}

impl Learnt {
    fn note(&mut self, batch: &EventBatch, outcome: &Outcome, asked_for: usize) {
        if batch::is_too_large(outcome) && batch.is_new() && batch.len() > 1 {
            self.most_events = Some(batch.len() / 2);
        } else if outcome.is_success() && self.most_events.is_some_and(|most| batch.len() >= most) {
            self.most_events = Some(batch.len() + batch.len() / 4 + 1).filter(|most| *most < asked_for);
        }
    }
}

impl TriggerQueue {
    /// Takes over what the definition says now.
    pub(in crate::delivery) fn set_endpoint(&mut self, endpoint: Result<Arc<Endpoint>, String>) {
        let batch = |endpoint: &Result<Arc<Endpoint>, String>| endpoint.as_ref().ok().and_then(|known| known.batch);
        if batch(&endpoint) != batch(&self.endpoint) {
            self.rows.scatter();
            self.learnt = Learnt::default();
        }
        self.endpoint = endpoint;
    }

    /// Whether it sends batches, and no single events.
    pub(in crate::delivery) fn is_batched(&self) -> bool {
        self.endpoint.as_ref().is_ok_and(|endpoint| endpoint.batch.is_some())
    }

    /// The next batch to send, which counts as in flight from now on. A probe is one event, so that an outage moves
    /// no more of them to those that are sent again than it has to.
    pub(in crate::delivery) fn next_batch(&mut self, now: Instant) -> NextBatch {
        let Some((endpoint, conf)) = self.endpoint.as_ref().ok().and_then(|known| Some((known, known.batch?))) else {
            return NextBatch::Nothing;
        };
        if !self.can_send() {
            return NextBatch::Nothing;
        }
        let (endpoint, is_probe) = (Arc::clone(endpoint), self.is_probing());
        let asked_for = if is_probe { 1 } else { conf.max_events as usize };
        let events = self.learnt.most_events.map_or(asked_for, |most| most.min(asked_for));
        let full = Full { events, bytes: self.most_bytes(conf) };
        let is_full = self.rows.has_batch_anew()
            || self.rows.gather(endpoint.ordering, full, now, |ready| batch::most_bytes(&endpoint, ready));
        let waits_until = match self.rows.gathered_since() {
            _ if is_full || is_probe => None,
            Some(since) => Some(since + Duration::from_millis(u64::from(conf.max_wait_ms))),
            None => return NextBatch::Nothing,
        };
        let ready_at = [waits_until, self.limiter.ready_at()].into_iter().flatten().max();
        if let Some(at) = ready_at.filter(|at| *at > now) {
            return NextBatch::At(at);
        }
        let Some(batch) = self.rows.take_batch() else { return NextBatch::Nothing };
        self.limiter.started(bytes_under_way(&batch), now);
        NextBatch::Send(batch, endpoint)
    }

    /// While a batch of this size is gathered, the log can be read on.
    fn most_bytes(&self, conf: BatchConf) -> usize {
        const { assert!(BatchConf::MOST_EVENTS as usize <= MAX_READY / 2) }
        (conf.max_bytes as usize).min(self.allowance / 2)
    }

    /// A request with several events ended. Gives what is to be recorded, and the events that it is over for without a
    /// record. `kept`: the lanes that were ours all the while; what was of others is forgotten already. What is of
    /// lanes that are not to be sent in any more is left to the next owner. `counts`: as in [`Settled`].
    pub(in crate::delivery) fn batch_ended(
        &mut self,
        ended: batch::Ended,
        kept: LaneSet,
        counts: bool,
        longest_retry_after_sec: u64,
    ) -> (Vec<Settled>, Vec<EventId>) {
        let now = Instant::now();
        let batch::Ended { batch, request, outcome, refused } = ended;
        self.limiter.ended(Load::of(&outcome), bytes_under_way(&batch), request.started, now);
        self.rows.has_waited_since(request.started);
        let events = batch.len();
        let asked_for = request.endpoint.batch.map_or(1, |conf| conf.max_events as usize);
        self.learnt.note(&batch, &outcome, asked_for);
        if request.withdrawn {
            return (Vec::new(), self.again(vec![batch], Vec::new(), kept));
        }
        let mut batch = match batch.next(&request, &outcome) {
            Next::Settle(batch) => batch,
            Next::Anew { batches, back } => {
                self.say_refused(&outcome, events);
                return (Vec::new(), self.again(batches, back, kept));
            }
        };
        batch.retain(kept);
        let settlement = batch::settle(batch, &request, &outcome, &refused, counts, longest_retry_after_sec);
        self.note_settled(&settlement.settled, &outcome, request.started);
        let back = self.take_back(settlement.back, kept);
        for settled in &settlement.settled {
            self.drop_behind(settled);
            if let Some(row) = settled.lock {
                self.rows.pass_lock(row, settled.event_id);
            }
            // As for single events: only what was accepted need not be recorded first.
            if settled.attempt.verdict == Verdict::Delivered {
                self.unlock(settled);
            }
        }
        (settlement.settled, back)
    }

    /// These are to be sent in another way, and those as if they had not been. Gives them all.
    fn again(&mut self, mut batches: Vec<EventBatch>, back: Vec<Ready>, kept: LaneSet) -> Vec<EventId> {
        batches.iter_mut().for_each(|batch| batch.retain(kept));
        let mut ids: Vec<EventId> = batches.iter().flat_map(EventBatch::ids).collect();
        ids.extend(self.take_back(back, kept));
        batches.iter_mut().for_each(|batch| batch.retain(self.lanes));
        batches.retain(|batch| !batch.is_empty());
        self.rows.send_anew(batches.into_iter());
        if !self.is_batched() || self.flow != Flow::Free {
            self.rows.scatter();
        }
        ids
    }

    /// Takes events of batches back. Gives them all.
    fn take_back(&mut self, mut back: Vec<Ready>, kept: LaneSet) -> Vec<EventId> {
        back.retain(|ready| kept.contains(ready.logged.event.lane));
        let ids = back.iter().map(|ready| ready.logged.id()).collect();
        back.retain(|ready| self.lanes.contains(ready.logged.event.lane));
        self.rows.put_back(back);
        ids
    }

    fn note_settled(&mut self, settled: &[Settled], outcome: &Outcome, started_at: Instant) {
        let is_loner = batch::is_loner(settled, outcome);
        for settled in settled {
            self.meter.counts.note(&settled.attempt);
            self.rows.set_loner(settled.event_id, is_loner);
        }
        let is_gone = settled.iter().any(|settled| settled.attempt.verdict == Verdict::Paused);
        if is_gone {
            self.pause_gone(started_at);
            return;
        }
        // One line tells of the request, as of a single event's.
        let failed = settled.iter().find(|settled| settled.attempt.verdict != Verdict::Delivered);
        if let (Some(one), Ok(endpoint)) = (failed.or(settled.first()), &self.endpoint) {
            self.failures.note(&endpoint.name, &one.attempt);
        }
    }

    fn say_refused(&mut self, outcome: &Outcome, events: usize) {
        if retry::is_gone(outcome) || self.learnt.told_at.is_some_and(|at| at.elapsed() < BETWEEN_LINES) {
            return;
        }
        self.learnt.told_at = Some(Instant::now());
        if let (Outcome::Answered(response), Ok(endpoint)) = (outcome, &self.endpoint) {
            let (trigger, status) = (&endpoint.name, response.status);
            warn!(
                trigger,
                "its webhook answered {status} to a batch of {events} events; it is sent in smaller parts until the \
                 events that are refused are found, which costs them alone their retries. Where all batches are too \
                 large, lower max_bytes or max_events of its batch"
            );
        }
    }
}

/// The events' rows and the body made of them.
pub(in crate::delivery) fn bytes_under_way(batch: &EventBatch) -> usize {
    2 * batch.bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::delivery::attempt::Request;
    use crate::delivery::batch::Refused;
    use crate::delivery::busy::Busy;
    use crate::delivery::fetch::Place;
    use crate::model::{Event, LANES, Ordering, Response, RetryConf, Timestamp, WHOLE_TRIGGER};
    use crate::queue::{Backlog, Logged};

    /// Lets an endpoint that takes so many events at a time answer batches that are as large as they may be.
    fn sizes(taken: usize, asked_for: usize, batches: usize) -> Vec<usize> {
        let (mut learnt, mut sizes) = (Learnt::default(), Vec::new());
        for _ in 0..batches {
            let size = learnt.most_events.unwrap_or(asked_for);
            let status = if size > taken { 413 } else { 200 };
            let outcome = Outcome::Answered(Response { status, ..Response::default() });
            learnt.note(&batch::of_size(size), &outcome, asked_for);
            sizes.push(size);
        }
        sizes
    }

    #[test]
    fn a_size_that_is_too_large_is_asked_for_seldom_and_a_single_large_event_makes_no_difference_for_long() {
        let sizes_of_4 = sizes(4, 100, 40);
        assert_eq!(sizes_of_4[..7], [100, 50, 25, 12, 6, 3, 4]);
        assert!(sizes_of_4[6..].iter().filter(|size| **size > 4).count() <= 40 / 3, "{sizes_of_4:?}");
        let (mut learnt, ok) = (Learnt::default(), Outcome::Answered(Response { status: 204, ..Response::default() }));
        let too_large = Outcome::Answered(Response { status: 413, ..Response::default() });
        learnt.note(&batch::of_size(100), &too_large, 100);
        let mut grown = Vec::new();
        while let Some(most) = learnt.most_events {
            grown.push(most);
            learnt.note(&batch::of_size(most), &ok, 100);
        }
        assert_eq!(grown, [50, 63, 79, 99]);
        for most_events in [None, Some(63)] {
            learnt.most_events = most_events;
            learnt.note(&batch::of_size(1), &too_large, 100);
            assert_eq!(learnt.most_events, most_events, "one that is too large alone says nothing of others");
        }
    }

    /// Its ordering was replaced while lanes move: what the whole trigger waits for is of a lane that was given back.
    #[test]
    fn a_whole_trigger_goes_on_when_an_event_of_another_lane_is_recorded() {
        let batch = Some(BatchConf { max_events: 2, max_wait_ms: 0, max_bytes: 1 << 20 });
        let retry_conf = RetryConf { num_retries: 5, ..RetryConf::default() };
        let endpoint = Arc::new(Endpoint { ordering: Ordering::Trigger, batch, retry_conf, ..Endpoint::example() });
        let mut queue = TriggerQueue::new(1, Ok(Arc::clone(&endpoint)));
        let place = |lanes| Place { lanes, floor: [0; LANES as usize], dealt_with: HashSet::new(), held: Vec::new() };
        queue.restart(place(LaneSet::ALL), &[]);
        queue.share_memory(1);
        queue.missed(2);
        assert!(queue.wants_read(2).is_some());
        let event = |seq, lane| Event { lane, ..Event::example(seq) };
        let logged = |seq: i64, lane| Logged { seq, source_id: 1, event: event(seq as u64, lane), replay_id: None };
        queue.read(Backlog { events: vec![logged(1, 3), logged(2, 5)], complete: true, ..Backlog::default() });
        let NextBatch::Send(batch, _) = queue.next_batch(Instant::now()) else { panic!("a batch") };
        let busy =
            Busy { trigger_id: endpoint.trigger_id, lane: 5, seq: 2, deferred: false, lock: Some(WHOLE_TRIGGER) };
        queue.restart(place([5].into_iter().collect()), &[(Event::example(2).id, busy)]);
        let (started, started_at, ended_at) = (Instant::now(), Timestamp(0), Timestamp(1));
        let request =
            Request { endpoint, started, started_at, ended_at, duration_micros: 0, was_gone: false, withdrawn: false };
        let outcome = Outcome::Answered(Response { status: 500, ..Response::default() });
        let ended = batch::Ended { batch, request, outcome, refused: Refused::Nothing };
        let (settled, back) = queue.batch_ended(ended, LaneSet::ALL, true, 60);
        assert_eq!((settled.len(), back.len()), (1, 1), "the first one failed, the second one waits for it");
        assert!(!queue.can_go());
        queue.recorded(&settled[0], false);
        assert!(queue.can_go());
    }
}
