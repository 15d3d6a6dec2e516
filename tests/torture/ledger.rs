//! What was found, held against the model.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use tokio::task::JoinHandle;
use tokio_postgres::types::PgLsn;
use uuid::Uuid;
use walhook::postgres::{Session, Settings, connect};

use crate::model::{Expected, Truth};
use crate::support::receiver::Request;
use crate::support::scene::DEADLINE;
use crate::support::wait::eventually;

/// Events under way or not recorded yet: what one crash may send again, as the README promises.
const IN_FLIGHT: usize = 2048;
/// Whether events of one row are delivered in commit order (invariant 4).
const ORDER_IS_KEPT: bool = true;
/// How far an attempt's recorded end may lie before its true one, in microseconds: start and duration are taken by two
/// clocks, one after the other.
const CLOCKS_APART: i64 = 50_000;
/// The triggers' `interval_sec`, in microseconds, less what rounding may take.
const SHORTEST_PAUSE: i64 = 999_000;

/// What broke in a round.
#[derive(Clone, Copy, Debug, Default)]
pub struct Damage {
    /// kill -9.
    pub kills: usize,
    /// Other ends that were not clean.
    pub crashes: usize,
    /// Faults after which another node may have gone on with what was under way.
    pub takeovers: usize,
}

impl Damage {
    /// How often what was under way may have been sent again.
    fn interruptions(&self) -> usize {
        self.kills + self.crashes + self.takeovers
    }
}

/// A look at the slot, and at the queue after it.
pub struct Look {
    acknowledged: u64,
    last_seq: i64,
}

/// Looks again and again until told to stop.
pub struct Watching {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<Look>>,
}

impl Watching {
    /// Ends it; gives all looks.
    pub async fn finish(self) -> Vec<Look> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the looks at the slot")
    }
}

/// Starts looking at a slot. Goes on when Postgres comes back.
pub fn watch_slot(database: Settings, slot: String) -> Watching {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        let mut looks = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            if let Ok(session) = connect(&database, "application").await {
                while !stopped.load(Ordering::Relaxed) {
                    let Ok(look) = look(&session, &slot).await else { break };
                    looks.extend(look);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        looks
    });
    Watching { stop, task }
}

/// The slot first: the queue only grows.
async fn look(session: &Session, slot: &str) -> Result<Option<Look>, tokio_postgres::Error> {
    let acknowledged = "select confirmed_flush_lsn from pg_replication_slots where slot_name = $1";
    let acknowledged: Option<PgLsn> = session.query_one(acknowledged, &[&slot]).await?.get(0);
    let last = "select coalesce(max(last.seq), 0) from walhook.trigger t cross join lateral (
                    select max(seq) as seq from walhook.event e
                    where e.trigger_id = t.id and e.source_id = t.source_id) last";
    let last_seq = session.query_one(last, &[]).await?.get(0);
    Ok(acknowledged.map(|acknowledged| Look { acknowledged: acknowledged.into(), last_seq }))
}

/// Waits until capture has passed everything and no event of a living trigger is pending; none stays paused.
pub async fn wait_until_done(sql: &Session) {
    let resume = "select walhook.resume(trigger) from walhook.trigger_status where status = 'paused'";
    let last = "insert into public.item (id) values (1000000) returning mark";
    let mark: i64 = sql.query_one(last, &[]).await.expect("the last change of all").get(0);
    let pending = format!(
        "select (select count(*) from walhook.deferred d join walhook.trigger t on t.id = d.trigger_id
                 where t.deleted_at is null),
                (select count(*) from walhook.event e join walhook.trigger t on t.id = e.trigger_id
                 where t.deleted_at is null and not exists (
                     select from walhook.attempt a where a.trigger_id = e.trigger_id and a.source_id = e.source_id
                         and a.event_seq = e.seq)),
                (select count(*) from walhook.event e where new like '%\"mark\":{mark},%')"
    );
    eventually("everything to be captured and delivered", 2 * DEADLINE, || async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        // Again: a last answer of 410 may still be under way.
        sql.query(resume, &[]).await.expect("all triggers resumed");
        let row = sql.query_one(&pending, &[]).await.expect("what is pending");
        let [deferred, not_attempted, passed] = [0, 1, 2].map(|column| row.get::<_, i64>(column));
        let done = deferred == 0 && not_attempted == 0 && passed > 0;
        if done { Ok(()) } else { Err(format!("{deferred} deferred, {not_attempted} not attempted, {passed} passed")) }
    })
    .await;
    let gaps: i64 = sql.query_one("select count(*) from walhook.gap", &[]).await.expect("a count").get(0);
    assert_eq!(gaps, 0, "recorded gaps");
}

/// An event of the log.
#[derive(Debug)]
struct Event {
    seq: i64,
    id: Uuid,
    operation: String,
    marks: [Option<i64>; 2],
}

/// A recorded attempt; times in microseconds.
#[derive(Debug)]
struct Attempt {
    number: i32,
    status: Option<i16>,
    verdict: String,
    started: i64,
    ended: i64,
}

/// A request that a receiver got.
#[derive(Debug)]
struct Arrival {
    /// Counts all requests.
    place: usize,
    at: i64,
    number: i32,
    answered: Option<u16>,
}

impl Arrival {
    fn is_accepted(&self) -> bool {
        self.answered.is_some_and(|status| (200..300).contains(&status))
    }
}

/// What is in the queue, and what the receivers got.
pub struct Found {
    /// By trigger, in the order of the log.
    events: HashMap<Uuid, Vec<Event>>,
    attempts: HashMap<Uuid, Vec<Attempt>>,
    arrivals: HashMap<Uuid, Vec<Arrival>>,
    deleted: HashSet<Uuid>,
    requests: Vec<Request>,
}

impl Found {
    pub async fn read(sql: &Session, requests: Vec<Request>) -> Found {
        let events =
            "select trigger_id, seq, id, operation, (old::json ->> 'mark')::bigint, (new::json ->> 'mark')::bigint
                      from walhook.event order by seq";
        let mut found = Found {
            events: HashMap::new(),
            attempts: HashMap::new(),
            arrivals: HashMap::new(),
            deleted: HashSet::new(),
            requests,
        };
        for row in sql.query(events, &[]).await.expect("the log") {
            let marks = [row.get(4), row.get(5)];
            let event = Event { seq: row.get(1), id: row.get(2), operation: row.get(3), marks };
            found.events.entry(row.get(0)).or_default().push(event);
        }
        let attempts = "select event_id, number, status, verdict,
                               (extract(epoch from started_at) * 1000000)::bigint, duration_micros
                        from walhook.attempt order by started_at";
        for row in sql.query(attempts, &[]).await.expect("the attempts") {
            let (started, took): (i64, i64) = (row.get(4), row.get(5));
            let (number, status, verdict) = (row.get(1), row.get(2), row.get(3));
            let attempt = Attempt { number, status, verdict, started, ended: started + took };
            found.attempts.entry(row.get(0)).or_default().push(attempt);
        }
        let deleted = "select id from walhook.trigger where deleted_at is not null";
        found.deleted = sql.query(deleted, &[]).await.expect("triggers").iter().map(|row| row.get(0)).collect();
        for request in &found.requests {
            let body = request.json();
            let number = body["delivery_info"]["current_retry"].as_i64().expect("a number of retries") as i32;
            let at = request.arrived_at.duration_since(UNIX_EPOCH).expect("a time after 1970").as_micros() as i64;
            let arrival = Arrival { place: request.number, at, number, answered: request.answered };
            found.arrivals.entry(id(&body)).or_default().push(arrival);
        }
        found
    }

    fn attempts(&self, event: Uuid) -> &[Attempt] {
        self.attempts.get(&event).map_or(&[], Vec::as_slice)
    }

    fn arrivals(&self, event: Uuid) -> &[Arrival] {
        self.arrivals.get(&event).map_or(&[], Vec::as_slice)
    }
}

fn id(body: &serde_json::Value) -> Uuid {
    body["id"].as_str().and_then(|id| id.parse().ok()).unwrap_or_else(|| panic!("a request without an id: {body}"))
}

/// The sums of all rounds.
#[derive(Debug, Default)]
pub struct Ledger {
    rounds: usize,
    transactions: usize,
    triggers: usize,
    events: usize,
    attempts: usize,
    requests: usize,
    dead: usize,
    looks: usize,
    kills: usize,
    interruptions: usize,
    duplicates: usize,
}

impl Ledger {
    pub fn add(&mut self, other: &Ledger) {
        self.rounds += other.rounds;
        self.transactions += other.transactions;
        self.triggers += other.triggers;
        self.events += other.events;
        self.attempts += other.attempts;
        self.requests += other.requests;
        self.dead += other.dead;
        self.looks += other.looks;
        self.kills += other.kills;
        self.interruptions += other.interruptions;
        self.duplicates += other.duplicates;
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ledger { rounds, transactions, triggers, events, attempts, requests, dead, looks, .. } = self;
        let Ledger { kills, interruptions, duplicates, .. } = self;
        writeln!(out, "{rounds} rounds: {transactions} transactions, {triggers} triggers, {looks} looks at the slot")?;
        writeln!(out, "events {events} (dead {dead}), attempts {attempts}, requests {requests}")?;
        write!(out, "kills {kills}, interruptions in all {interruptions}; lost 0, duplicates {duplicates}")
    }
}

/// Everything that must hold of a round.
pub fn check(truth: &Truth, found: &Found, looks: &[Look], damage: &Damage) -> Ledger {
    for trigger in found.events.keys() {
        assert!(truth.expected.contains_key(trigger), "events of a trigger that was never made: {trigger}");
    }
    let mut ledger = Ledger { rounds: 1, kills: damage.kills, looks: looks.len(), ..Ledger::default() };
    ledger.interruptions = damage.interruptions();
    (ledger.transactions, ledger.requests) = (truth.transactions, found.requests.len());
    let mut ends = Vec::new();
    for (trigger, expected) in &truth.expected {
        let events = found.events.get(trigger).map_or(&[][..], Vec::as_slice);
        check_log(*trigger, expected, events);
        ends.extend(expected.iter().zip(events).map(|(expected, event)| (expected.commit_end, event.seq)));
        for event in events {
            let attempts = found.attempts(event.id);
            let is_deleted = found.deleted.contains(trigger);
            check_attempts(event, attempts, is_deleted, truth.fewest_retries[trigger]);
            ledger.duplicates += check_arrivals(event, attempts, found.arrivals(event.id), damage);
            ledger.dead += usize::from(attempts.last().is_some_and(|last| last.verdict == "dead"));
            ledger.attempts += attempts.len();
        }
        if ORDER_IS_KEPT {
            check_order(expected, events, found);
        }
        ledger.events += events.len();
        ledger.triggers += 1;
    }
    check_acknowledged(ends, looks);
    check_requests(found);
    let most = damage.interruptions() * IN_FLIGHT;
    assert!(ledger.duplicates <= most, "{} duplicates, at most {most} were in flight", ledger.duplicates);
    ledger
}

/// Invariant 1: the log has exactly the model's events, in the order of the commits.
fn check_log(trigger: Uuid, expected: &[Expected], events: &[Event]) {
    let is_same =
        |expected: &Expected, event: &Event| expected.operation == event.operation && expected.marks == event.marks;
    let both = expected.iter().zip(events);
    let same = both.take_while(|(expected, event)| is_same(expected, event)).count();
    if same < expected.len().max(events.len()) {
        let lost = expected.iter().filter(|expected| !events.iter().any(|event| is_same(expected, event))).count();
        let near = same.saturating_sub(1)..same + 3;
        let wanted: Vec<_> = expected.iter().skip(near.start).take(near.len()).collect();
        let got: Vec<_> = events.iter().skip(near.start).take(near.len()).collect();
        panic!(
            "trigger {trigger}: {} events instead of {}, {lost} lost; from place {} on expected {wanted:#?}, found \
             {got:#?}",
            events.len(),
            expected.len(),
            near.start
        );
    }
}

/// Invariant 2: what the server was told to be done with was in the queue by then. `ends` holds each event's commit.
fn check_acknowledged(mut ends: Vec<(u64, i64)>, looks: &[Look]) {
    ends.sort_unstable();
    assert!(ends.windows(2).all(|pair| pair[0].1 <= pair[1].1 || pair[0].0 == pair[1].0), "the log is not in order");
    // The highest seq of all commits that end no later.
    let mut needed = BTreeMap::new();
    let mut highest = 0;
    for (end, seq) in ends {
        highest = highest.max(seq);
        needed.insert(end, highest);
    }
    for Look { acknowledged, last_seq } in looks {
        let needed = needed.range(..=acknowledged).next_back().map_or(0, |(_, seq)| *seq);
        let acknowledged = PgLsn::from(*acknowledged);
        assert!(needed <= *last_seq, "acknowledged {acknowledged}, which needs event {needed}; there was {last_seq}");
    }
}

/// Invariant 3, as it was recorded: attempted until accepted or dead, each attempt once, none too early.
fn check_attempts(event: &Event, attempts: &[Attempt], is_deleted: bool, fewest_retries: u32) {
    assert!(attempts.first().is_none_or(|first| first.number == 0), "{attempts:?} of {event:?}");
    for pair in attempts.windows(2) {
        // What pauses the trigger costs no retry, nor does a failure that may be part of an outage.
        let may_be_free = matches!(pair[0].status, None | Some(410 | 429 | 503));
        let spent = pair[1].number - pair[0].number;
        assert!(spent == 1 || (spent == 0 && may_be_free), "{spent} retries spent: {attempts:?} of {event:?}");
    }
    for pair in attempts.windows(2) {
        let (is_retry, pause) = (pair[0].verdict == "retry", pair[1].started - pair[0].ended);
        assert!(is_retry || pair[0].verdict == "paused", "an attempt after the last one: {attempts:?} of {event:?}");
        assert!(pause >= SHORTEST_PAUSE || !is_retry, "too early: {attempts:?} of {event:?}");
    }
    for attempt in attempts {
        let is_success = attempt.status.is_some_and(|status| (200..300).contains(&status));
        assert_eq!(is_success, attempt.verdict == "delivered", "{attempts:?} of {event:?}");
    }
    match attempts.last() {
        Some(last) if last.verdict == "dead" => {
            assert!(last.number >= fewest_retries as i32, "given up too early: {attempts:?} of {event:?}");
        }
        last => {
            let is_delivered = last.is_some_and(|last| last.verdict == "delivered");
            assert!(is_delivered || is_deleted, "neither accepted nor dead: {attempts:?} of {event:?}");
        }
    }
}

/// Invariant 3, as the receivers saw it: what was recorded happened, and only what was in flight came again. Gives how
/// many requests were not recorded.
fn check_arrivals(event: &Event, attempts: &[Attempt], arrivals: &[Arrival], damage: &Damage) -> usize {
    let tell = || format!("{attempts:#?} {arrivals:#?} of {event:?}");
    let count = |number: i32, status: i16| {
        let answers = arrivals.iter().filter(|arrival| arrival.number == number);
        answers.filter(|arrival| arrival.answered == Some(status as u16)).count()
    };
    for attempt in attempts {
        let is_real = attempt.status.is_none_or(|status| count(attempt.number, status) > 0);
        assert!(is_real, "an answer was recorded that nobody gave: {}", tell());
    }
    let unrecorded = arrivals.len().saturating_sub(attempts.len());
    assert!(unrecorded <= damage.interruptions(), "sent again more often than anything broke: {}", tell());
    let delivered = attempts.last().filter(|last| last.verdict == "delivered" && unrecorded > 0);
    if let Some(last) = delivered {
        let is_over = |arrival: &Arrival| arrival.at <= last.ended + CLOCKS_APART && arrival.number <= last.number;
        assert!(arrivals.iter().all(is_over), "sent again though its acceptance was recorded: {}", tell());
    }
    unrecorded
}

/// Each request is an event of the log.
fn check_requests(found: &Found) {
    let events: HashMap<Uuid, &Event> = found.events.values().flatten().map(|event| (event.id, event)).collect();
    assert_eq!(events.len(), found.events.values().map(Vec::len).sum::<usize>(), "ids that repeat");
    for request in &found.requests {
        let body = request.json();
        let event = events.get(&id(&body)).unwrap_or_else(|| panic!("not in the log: {request:?}"));
        let mark = |row: &str| body["event"]["data"][row]["mark"].as_i64();
        let is_same = body["event"]["op"] == event.operation.as_str() && [mark("old"), mark("new")] == event.marks;
        assert!(is_same, "not what the log has, {event:?}: {request:?}");
    }
}

/// Invariant 4: an event is not sent before the one before it of the same row was accepted or dead.
fn check_order(expected: &[Expected], events: &[Event], found: &Found) {
    let mut before: HashMap<&str, &Event> = HashMap::new();
    for (expected, event) in expected.iter().zip(events) {
        let Some(row) = expected.row.as_deref() else { continue };
        let Some(previous) = before.insert(row, event) else { continue };
        let (arrivals, attempts) = (found.arrivals(previous.id), found.attempts(previous.id));
        let Some(first) = found.arrivals(event.id).first() else { continue };
        let is_accepted = arrivals.iter().find(|arrival| arrival.is_accepted());
        let is_in_order = match (is_accepted, attempts.last()) {
            (Some(accepted), _) if accepted.place < first.place => true,
            (_, Some(last)) => last.verdict != "retry" && last.started <= first.at,
            (_, None) => false,
        };
        assert!(is_in_order, "{row}: {event:?} came at {first:?}, before {previous:?}: {arrivals:#?} {attempts:#?}");
    }
}
