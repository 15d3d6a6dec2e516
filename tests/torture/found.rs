//! What is in the queue after a round, and what the receivers got.

use std::collections::HashMap;
use std::time::UNIX_EPOCH;

use serde_json::Value;
use uuid::Uuid;
use walhook::postgres::Session;

use crate::ledger::CLOCKS_APART;
use crate::support::receiver::Request;

/// An event of the log; times in microseconds.
#[derive(Debug)]
pub struct Event {
    pub seq: i64,
    pub id: Uuid,
    /// For whoever has to find out what happened, as below.
    _lane: i16,
    pub operation: String,
    pub marks: [Option<i64>; 2],
    pub committed_at: i64,
    /// For a later time.
    pub deliver_at: Option<i64>,
}

/// A recorded attempt; times in microseconds.
#[derive(Debug)]
pub struct Attempt {
    pub number: i32,
    pub status: Option<i16>,
    pub verdict: String,
    pub started: i64,
    pub ended: i64,
    /// When, and by which session.
    _recorded: (i64, i32),
}

impl Attempt {
    /// Whether the event was done with it, until somebody had it sent again.
    pub fn is_final(&self) -> bool {
        matches!(self.verdict.as_str(), "delivered" | "dead")
    }
}

/// A request that a receiver got, or a part of one: what it had of one event.
#[derive(Debug)]
pub struct Arrival {
    /// Counts all requests, and the events in this one.
    pub place: (usize, usize),
    pub at: i64,
    pub number: i32,
    pub answered: Option<u16>,
    /// How many events were in the request.
    of: usize,
    /// It is recorded of one before it in the request that there was no answer, whatever the receiver sent.
    is_behind_unheard: bool,
}

impl Arrival {
    pub fn is_accepted(&self) -> bool {
        self.answered.is_some_and(|status| (200..300).contains(&status))
    }

    /// Whether it may have left no attempt because it was behind a failed one of its row in the same request.
    pub fn may_be_behind(&self) -> bool {
        self.place.1 > 0 && !self.is_gone() && (self.is_behind_unheard || !self.is_accepted())
    }

    pub fn is_gone(&self) -> bool {
        self.answered == Some(410)
    }

    /// Whether it was not alone in its request.
    pub fn is_of_batch(&self) -> bool {
        self.of > 1
    }
}

/// A replay, as `walhook.replay` tells of it; times in microseconds.
#[derive(Debug)]
pub struct Replay {
    pub trigger: Uuid,
    pub from_time: i64,
    pub to_seq: i64,
    pub requested_at: i64,
    pub state: String,
    pub events: i64,
    pub queued: i64,
    pub skipped: i64,
}

/// See the module's description.
pub struct Found {
    /// By trigger, in the order of the log.
    pub events: HashMap<Uuid, Vec<Event>>,
    attempts: HashMap<Uuid, Vec<Attempt>>,
    arrivals: HashMap<Uuid, Vec<Arrival>>,
    pub names: HashMap<Uuid, String>,
    /// Since when, in microseconds.
    pub deleted: HashMap<Uuid, i64>,
    pub replays: Vec<Replay>,
    pub requests: Vec<Request>,
}

impl Found {
    pub async fn read(sql: &Session, requests: Vec<Request>) -> Found {
        let events = "select trigger_id, seq, id, operation, (old::json ->> 'mark')::bigint,
                             (new::json ->> 'mark')::bigint, (extract(epoch from committed_at) * 1000000)::bigint,
                             (extract(epoch from deliver_at) * 1000000)::bigint, lane
                      from audit.event order by seq";
        let mut found = Found {
            events: HashMap::new(),
            attempts: HashMap::new(),
            arrivals: HashMap::new(),
            names: HashMap::new(),
            deleted: HashMap::new(),
            replays: Vec::new(),
            requests,
        };
        for row in sql.query(events, &[]).await.expect("the log") {
            let marks = [row.get(4), row.get(5)];
            let (seq, id, operation) = (row.get(1), row.get(2), row.get(3));
            let (committed_at, deliver_at, _lane) = (row.get(6), row.get(7), row.get(8));
            let event = Event { seq, id, _lane, operation, marks, committed_at, deliver_at };
            found.events.entry(row.get(0)).or_default().push(event);
        }
        let attempts = "select event_id, number, status, verdict,
                               (extract(epoch from started_at) * 1000000)::bigint, duration_micros,
                               (extract(epoch from recorded_at) * 1000000)::bigint, recorded_by
                        from audit.attempt order by started_at";
        for row in sql.query(attempts, &[]).await.expect("the attempts") {
            let (started, took): (i64, i64) = (row.get(4), row.get(5));
            let (number, status, verdict) = (row.get(1), row.get(2), row.get(3));
            let recorded = (row.get(6), row.get(7));
            let attempt = Attempt { number, status, verdict, started, ended: started + took, _recorded: recorded };
            found.attempts.entry(row.get(0)).or_default().push(attempt);
        }
        found.read_triggers(sql).await;
        for request in &found.requests {
            let at = request.arrived_at.duration_since(UNIX_EPOCH).expect("a time after 1970").as_micros() as i64;
            let events: Vec<(Uuid, i32)> = events_of(request).iter().map(|event| (id(event), retries(event))).collect();
            let unheard = events.iter().position(|(event, number)| found.is_unheard(*event, *number, at));
            let of = events.len();
            for (index, (event, number)) in events.into_iter().enumerate() {
                let (place, answered) = ((request.number, index), request.answered);
                let is_behind_unheard = unheard.is_some_and(|first| first < index);
                let arrival = Arrival { place, at, number, answered, of, is_behind_unheard };
                found.arrivals.entry(event).or_default().push(arrival);
            }
        }
        found
    }

    async fn read_triggers(&mut self, sql: &Session) {
        let triggers = "select id, name, (extract(epoch from deleted_at) * 1000000)::bigint from walhook.trigger";
        for row in sql.query(triggers, &[]).await.expect("the triggers") {
            self.names.insert(row.get(0), row.get(1));
            if let Some(at) = row.get(2) {
                self.deleted.insert(row.get(0), at);
            }
        }
        let replays = "select trigger_id, (extract(epoch from from_time) * 1000000)::bigint, to_seq,
                              (extract(epoch from requested_at) * 1000000)::bigint, state, events, queued, skipped
                       from walhook.replay";
        for row in sql.query(replays, &[]).await.expect("the replays") {
            self.replays.push(Replay {
                trigger: row.get(0),
                from_time: row.get(1),
                to_seq: row.get(2),
                requested_at: row.get(3),
                state: row.get(4),
                events: row.get(5),
                queued: row.get(6),
                skipped: row.get(7),
            });
        }
    }

    /// Whether an attempt without an answer is recorded of what arrived then.
    fn is_unheard(&self, event: Uuid, number: i32, at: i64) -> bool {
        self.attempts(event).iter().any(|one| {
            let is_then = one.started - CLOCKS_APART <= at && at <= one.ended + CLOCKS_APART;
            one.number == number && one.status.is_none() && is_then
        })
    }

    pub fn attempts(&self, event: Uuid) -> &[Attempt] {
        self.attempts.get(&event).map_or(&[], Vec::as_slice)
    }

    pub fn arrivals(&self, event: Uuid) -> &[Arrival] {
        self.arrivals.get(&event).map_or(&[], Vec::as_slice)
    }
}

/// What a request has of each of its events.
pub fn events_of(request: &Request) -> Vec<Value> {
    match request.json() {
        Value::Array(events) => events,
        event => vec![event],
    }
}

/// The event of a request.
pub fn id(body: &Value) -> Uuid {
    body["id"].as_str().and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("a request without an id: {body}"))
}

/// Which retry it says it is.
fn retries(body: &Value) -> i32 {
    body["delivery_info"]["current_retry"].as_i64().expect("a number of retries") as i32
}
