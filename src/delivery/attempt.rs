//! One attempt: send, wait for the answer, decide.

use std::sync::Arc;

use tokio::time::Instant;

use super::pause::Gone;
use super::retry::{self, Tried};
use super::rows::Ready;
use super::{Client, Endpoint, batch, payload, remarks};
use crate::model::{Attempt, Timestamp};
use crate::queue::Settled;

/// An attempt that ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// What is to be recorded of it.
    pub(super) settled: Settled,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) started_at: Instant,
    /// As the event's [`Ready::bytes`] was.
    pub(super) size: usize,
}

/// A request that ended.
#[derive(Debug)]
pub(super) enum EndedRequest {
    Single(Ended),
    Batch(batch::Ended),
}

/// Makes the request for an event and gives what is to be recorded of it.
pub(super) async fn attempt(
    client: &Client,
    endpoint: Arc<Endpoint>,
    gone: Gone,
    ready: Ready,
    longest_retry_after_sec: u64,
) -> Ended {
    let size = ready.bytes();
    let Ready { mut logged, number, deferred, holds, lock } = ready;
    let (started_at, clock) = (Timestamp::now(), Instant::now());
    let (body, remarks) = (payload::body(&endpoint, &logged.event, number), remarks::headers(&logged));
    // The body has the rows now; the request may take long.
    (logged.event.old, logged.event.new) = (None, None);
    let outcome = client.post(&endpoint, body, remarks).await;
    let event = &logged.event;
    let duration_micros = i64::try_from(clock.elapsed().as_micros()).unwrap_or(i64::MAX);
    let tried = Tried {
        event_id: event.id,
        // Its age is counted from when it was to be delivered.
        committed_at: event.deliver_at.unwrap_or(event.committed_at),
        number,
        outcome: &outcome,
        now: Timestamp::now(),
        was_gone: gone.note(&outcome),
        counts: true,
    };
    let verdict = retry::decide(&tried, &endpoint.retry_conf, longest_retry_after_sec);
    let settled = Settled {
        event_id: event.id,
        trigger_id: event.trigger_id,
        source_id: logged.source_id,
        seq: logged.seq,
        lane: event.lane,
        committed_at: event.committed_at,
        was_deferred: deferred,
        lock,
        holds,
        on_dead: endpoint.on_dead,
        attempt: Attempt { number, started_at, duration_micros, outcome, verdict },
        counts: true,
    };
    Ended { settled, endpoint, started_at: clock, size }
}
