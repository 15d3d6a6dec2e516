//! One attempt: send, wait for the answer, decide.

use std::sync::Arc;

use tokio::time::Instant;

use super::gate::Gate;
use super::pause::Gone;
use super::retry::{self, Tried};
use super::rows::Ready;
use super::tenure::Terms;
use super::{Client, Endpoint, batch, payload, remarks};
use crate::model::{Attempt, Failure, FailureKind, Outcome, Timestamp};
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
    /// Nothing was sent: the lane is another node's, or was.
    pub(super) withdrawn: bool,
}

/// Whether its lane is still ours is looked at when all is ready to be sent.
pub(super) struct Permit {
    pub(super) gate: Gate,
    /// The lane's when the attempt was started.
    pub(super) term: u64,
}

/// A request that ended, with the term of its event's lane when it was started, or those of all lanes.
#[derive(Debug)]
pub(super) enum EndedRequest {
    Single(u64, Ended),
    Batch(Terms, batch::Ended),
}

/// In place of an outcome where there was no request.
pub(super) fn unsent() -> Outcome {
    Outcome::Failed(Failure { kind: FailureKind::Broken, text: String::new() })
}

/// Makes the request for an event and gives what is to be recorded of it.
pub(super) async fn attempt(
    client: &Client,
    endpoint: Arc<Endpoint>,
    gone: Gone,
    ready: Ready,
    permit: &Permit,
    longest_retry_after_sec: u64,
) -> Ended {
    let size = ready.bytes();
    let Ready { mut logged, number, deferred, holds, lock } = ready;
    let (started_at, clock) = (Timestamp::now(), Instant::now());
    let (body, remarks) = (payload::body(&endpoint, &logged.event, number), remarks::headers(&logged));
    // The body has the rows now; the request may take long.
    (logged.event.old, logged.event.new) = (None, None);
    let withdrawn = !permit.gate.pass(logged.event.lane, permit.term).await;
    let outcome = match withdrawn {
        true => unsent(),
        false => client.post(&endpoint, body, remarks).await,
    };
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
    Ended { settled, endpoint, started_at: clock, size, withdrawn }
}
