//! One request with several events: what it says, and what came of it.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::{EventBatch, Next, Refused, Settlement, settle};
use crate::delivery::attempt::{Request, Underway};
use crate::delivery::gate::Permit;
use crate::delivery::http::MAX_ANSWER_BYTES;
use crate::delivery::pause::Gone;
use crate::delivery::rows::Ready;
use crate::delivery::{Client, Endpoint, payload, remarks};
use crate::model::{EventId, LaneSet, Outcome, Subject};
use crate::pgoutput::write_string;
use crate::queue::Settled;

/// How many events the body has.
const COUNT: HeaderName = HeaderName::from_static("walhook-batch");
/// The most bytes that a payload has beside names, rows and what only some events have.
const FRAME: usize = 400;
/// The most bytes of what only some payloads have.
const TRANSACTION: usize = 160;
const BACKFILL: usize = 64;
const DELIVER_AT: usize = 64;
const REMARKS: usize = 240;
/// The most bytes that one byte takes when it is escaped.
const ESCAPED: usize = 6;

/// A batch whose request ended.
#[derive(Debug)]
pub(in crate::delivery) struct Ended {
    pub(in crate::delivery) batch: EventBatch,
    pub(in crate::delivery) request: Request,
    pub(in crate::delivery) outcome: Outcome,
    pub(in crate::delivery) refused: Refused,
}

impl Ended {
    /// Where nothing can be sent anew: what is to be recorded of these lanes, and the events that it is over for
    /// without a record.
    pub(in crate::delivery) fn settle(
        self,
        kept: LaneSet,
        counts: bool,
        longest_retry_after_sec: u64,
    ) -> (Vec<Settled>, Vec<EventId>) {
        let of_kept = self.batch.events.iter().filter(|ready| kept.contains(ready.logged.event.lane));
        let ids = of_kept.map(|ready| ready.logged.id()).collect();
        let mut batch = match self.batch.next(&self.request, &self.outcome) {
            Next::Settle(batch) if !self.request.withdrawn => batch,
            Next::Settle(_) | Next::Anew { .. } => return (Vec::new(), ids),
        };
        batch.retain(kept);
        let Settlement { settled, back } =
            settle(batch, &self.request, &self.outcome, &self.refused, counts, longest_retry_after_sec);
        (settled, back.iter().map(|ready| ready.logged.id()).collect())
    }
}

/// Makes the request. The events' rows stay in memory with the body, as they may have to be sent in another way.
pub(in crate::delivery) async fn send(
    client: &Client,
    endpoint: Arc<Endpoint>,
    gone: Gone,
    batch: EventBatch,
    permit: &Permit,
) -> Ended {
    let headers = HeaderMap::from_iter([(COUNT, HeaderValue::from(batch.len()))]);
    let body = body(&endpoint, &batch.events);
    let underway = Underway::begin(client.clock());
    let sent = client.send(&endpoint, body, headers, permit, MAX_ANSWER_BYTES).await;
    let (request, outcome, answer) = underway.end(client.clock(), endpoint, &gone, sent);
    let refused = Refused::read(&outcome, &answer, batch.ids());
    Ended { batch, request, outcome, refused }
}

/// An array of what each event's own request would have said.
pub(super) fn body(endpoint: &Endpoint, events: &[Ready]) -> Bytes {
    let mut out = Vec::with_capacity(events.iter().map(|ready| most_bytes(endpoint, ready)).sum());
    for ready in events {
        out.push(if out.is_empty() { b'[' } else { b',' });
        payload::write(&mut out, endpoint, &ready.logged.event, ready.number);
        write_remarks(&mut out, &remarks::headers(&ready.logged));
    }
    out.push(b']');
    Bytes::from(out)
}

/// What its own request would have said by headers stands in the event, under `headers`.
fn write_remarks(out: &mut Vec<u8>, remarks: &HeaderMap) {
    if remarks.is_empty() {
        return;
    }
    // The payload is an object and not empty.
    out.pop();
    let mut before: &[u8] = b",\"headers\":{";
    for (name, value) in remarks {
        out.extend_from_slice(before);
        write_string(out, name.as_str().as_bytes());
        out.push(b':');
        write_string(out, value.as_bytes());
        before = b",";
    }
    out.extend_from_slice(b"}}");
}

/// The most bytes that an event takes of a body.
pub(in crate::delivery) fn most_bytes(endpoint: &Endpoint, ready: &Ready) -> usize {
    let event = &ready.logged.event;
    let subject = match &*event.subject {
        Subject::Table(table) => table.schema.len() + table.name.len(),
        Subject::Type(name) => name.len(),
    };
    let missing: usize = event.missing.iter().flat_map(|names| names.iter()).map(|name| 3 * name.len() + 1).sum();
    let has_remarks = event.missing.is_some()
        || event.old_partial
        || event.undecided
        || event.backfill_id.is_some()
        || ready.logged.replay_id.is_some();
    event.size()
        + FRAME
        + ESCAPED * (endpoint.name.len() + subject)
        + usize::from(endpoint.transaction) * TRANSACTION
        + usize::from(event.backfill_id.is_some()) * BACKFILL
        + usize::from(event.deliver_at.is_some()) * DELIVER_AT
        + usize::from(has_remarks) * REMARKS
        + missing
}
