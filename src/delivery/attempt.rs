//! One request: send, wait for the answer; and what is to be recorded of each event in it.

use std::sync::Arc;

use tokio::time::Instant;

use super::gate::Permit;
use super::http::{Body, HEAD_BYTES};
use super::letter::Withdrawn;
use super::pause::Gone;
use super::retry::{self, Tried};
use super::rows::Ready;
use super::tenure::Terms;
use super::{Client, Endpoint, batch, payload, remarks};
use crate::model::{Attempt, Failure, FailureKind, Outcome, Timestamp};
use crate::node::ServerClock;
use crate::queue::Settled;

/// A request that ended, beside its outcome.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) started: Instant,
    pub(super) started_at: Timestamp,
    /// At the latest.
    pub(super) ended_at: Timestamp,
    pub(super) duration_micros: i64,
    /// As in [`Tried`].
    pub(super) was_gone: bool,
    /// Nothing was sent: a lane of it is another node's, or was. The outcome stands for nothing.
    pub(super) withdrawn: bool,
}

/// A request with one event that ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// Without its rows, which the request's body had.
    pub(super) ready: Ready,
    pub(super) request: Request,
    pub(super) outcome: Outcome,
    /// As the event's [`Ready::bytes`] was.
    pub(super) size: usize,
}

/// A request that ended, with the term of its event's lane when it was started, or those of all lanes.
#[derive(Debug)]
pub(super) enum EndedRequest {
    Single(u64, Ended),
    Batch(Terms, batch::Ended),
}

/// Makes the request for an event, and reports it. There are as many of these futures as requests under way, and each
/// is moved when it is started.
#[expect(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
pub(super) fn attempt(
    client: Arc<Client>,
    endpoint: Arc<Endpoint>,
    gone: Gone,
    mut ready: Ready,
    permit: Permit,
    report: impl FnOnce(Ended) + Send,
) -> impl Future<Output = ()> + Send {
    async move {
        let size = ready.bytes();
        let (body, remarks) =
            (payload::body(&endpoint, &ready.logged.event, ready.number), remarks::headers(&ready.logged));
        // The body has the rows now; the request may take long.
        (ready.logged.event.old, ready.logged.event.new) = (None, None);
        let underway = Underway::begin(client.clock());
        let sent = client.send(&endpoint, body, remarks, &permit, HEAD_BYTES).await;
        let (request, outcome, _) = underway.end(client.clock(), endpoint, &gone, sent);
        report(Ended { ready, request, outcome, size });
    }
}

/// The sending of what is ready to be sent, timed.
pub(super) struct Underway {
    started: Instant,
    started_at: Timestamp,
}

impl Underway {
    /// It is sent now.
    pub(super) fn begin(clock: &ServerClock) -> Underway {
        Underway { started_at: clock.earliest(), started: Instant::now() }
    }

    /// What follows from how it ended, whatever was sent.
    pub(super) fn end(
        self,
        clock: &ServerClock,
        endpoint: Arc<Endpoint>,
        gone: &Gone,
        sent: Result<(Outcome, Body), Withdrawn>,
    ) -> (Request, Outcome, Body) {
        let Underway { started, started_at } = self;
        let withdrawn = sent.is_err();
        let (outcome, answer) = sent.unwrap_or_else(|_| (unsent(), Body::default()));
        let request = Request {
            endpoint,
            started,
            started_at,
            ended_at: clock.latest(),
            duration_micros: i64::try_from(started.elapsed().as_micros()).unwrap_or(i64::MAX),
            // What was not sent says nothing of the endpoint.
            was_gone: !withdrawn && gone.note(&outcome),
            withdrawn,
        };
        (request, outcome, answer)
    }
}

/// In place of an outcome where there was no request.
fn unsent() -> Outcome {
    Outcome::Failed(Failure { kind: FailureKind::Broken, text: String::new() })
}

/// Decides what became of an event whose request ended. `counts`: as in [`Settled`].
pub(super) fn settle(
    ready: Ready,
    request: &Request,
    outcome: Outcome,
    counts: bool,
    longest_retry_after_sec: u64,
) -> Settled {
    let Ready { logged, number, version, holds, lock } = ready;
    let (event, endpoint) = (&logged.event, &request.endpoint);
    let tried = Tried {
        event_id: event.id,
        // Its age is counted from when it was to be delivered.
        committed_at: event.deliver_at.unwrap_or(event.committed_at),
        number,
        outcome: &outcome,
        now: request.ended_at,
        was_gone: request.was_gone && counts,
        counts,
    };
    let verdict = retry::decide(&tried, &endpoint.retry_conf, longest_retry_after_sec);
    let Request { started_at, duration_micros, .. } = *request;
    Settled {
        event_id: event.id,
        trigger_id: event.trigger_id,
        source_id: logged.source_id,
        seq: logged.seq,
        lane: event.lane,
        committed_at: event.committed_at,
        version,
        lock,
        holds,
        on_dead: endpoint.on_dead,
        attempt: Attempt { number, started_at, duration_micros, outcome, verdict },
        counts,
        asked_again: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Event, Response, RetryConf, Verdict};
    use crate::queue::{Logged, RowVersion};

    fn answered(status: u16) -> Outcome {
        Outcome::Answered(Response { status, ..Response::default() })
    }

    fn request(endpoint: Endpoint, gone: &Gone, passes: bool, status: u16) -> (Request, Outcome) {
        let sent = if passes { Ok((answered(status), Body::default())) } else { Err(Withdrawn) };
        let clock = ServerClock::default();
        let (request, outcome, _) = Underway::begin(&clock).end(&clock, Arc::new(endpoint), gone, sent);
        (request, outcome)
    }

    #[test]
    fn what_was_not_sent_neither_says_that_the_endpoint_is_gone_nor_that_it_is_there() {
        let gone = Gone::default();
        for (passes, status, was_gone) in
            [(false, 410, false), (true, 410, false), (false, 204, false), (true, 410, true), (true, 204, true)]
        {
            let (request, outcome) = request(Endpoint::example(), &gone, passes, status);
            assert_eq!((request.withdrawn, request.was_gone), (!passes, was_gone), "{status}");
            assert_eq!(outcome == answered(status), passes);
        }
    }

    /// Also where its endpoint is down: then its attempts do not count, and its age does.
    #[test]
    fn a_scheduled_events_age_is_counted_from_its_time() {
        let retry_conf = RetryConf { num_retries: 9, max_age_sec: Some(60), ..RetryConf::default() };
        let endpoint = Endpoint { retry_conf, ..Endpoint::example() };
        let (request, outcome) = request(endpoint, &Gone::default(), true, 503);
        let ago = |seconds: i64| Timestamp(request.ended_at.0 - seconds * 1_000_000);
        for (deliver_at, counts, is_dead) in [
            (Some(ago(5)), true, false),
            (Some(ago(5)), false, false),
            (Some(ago(99)), false, true),
            (None, false, true),
        ] {
            let event = Event { committed_at: ago(3_600), deliver_at, ..Event::example(1) };
            let logged = Logged { seq: 1, source_id: 1, event, replay_id: None };
            let ready = Ready { logged, number: 0, version: Some(RowVersion(1)), holds: None, lock: None };
            let verdict = settle(ready, &request, outcome.clone(), counts, 60).attempt.verdict;
            assert_eq!(verdict == Verdict::Dead, is_dead, "{deliver_at:?} {counts}: {verdict:?}");
        }
    }
}
