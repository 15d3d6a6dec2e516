//! What was found, held against the model.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use tokio_postgres::types::PgLsn;
use uuid::Uuid;

use crate::damage::Damage;
use crate::found::{Arrival, Attempt, Event, Found, events_of, id};
use crate::model::{Expected, Truth};
use crate::order::check_order;
use crate::repairs::{Asked, AskedOfAll, Repairs};
use crate::watch::Look;

/// Events under way or not recorded yet: what one crash may send again, as the README promises.
const IN_FLIGHT: usize = 2048;
/// How far an attempt's recorded end may lie before its true one, in microseconds: a node knows the server's clock only
/// as well as its heartbeats are fast, and notes the earliest time that it may be.
pub const CLOCKS_APART: i64 = 1_000_000;
/// The triggers' `interval_sec`, in microseconds, less what rounding may take.
const SHORTEST_PAUSE: i64 = 999_000;

/// The sums of all rounds.
#[derive(Debug, Default)]
pub struct Ledger {
    rounds: usize,
    transactions: usize,
    triggers: usize,
    events: usize,
    attempts: usize,
    requests: usize,
    /// Those with more than one event.
    batches: usize,
    dead: usize,
    /// Given up by hand.
    skipped: usize,
    /// For a later time.
    scheduled: usize,
    /// Of two events whose order was promised.
    pairs: usize,
    /// Attempts after the last one, as somebody asked for.
    again: usize,
    replays: usize,
    looks: usize,
    kills: usize,
    steps: usize,
    dropped: usize,
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
        self.batches += other.batches;
        self.dead += other.dead;
        self.skipped += other.skipped;
        self.scheduled += other.scheduled;
        self.pairs += other.pairs;
        self.again += other.again;
        self.replays += other.replays;
        self.looks += other.looks;
        self.kills += other.kills;
        self.steps += other.steps;
        self.dropped += other.dropped;
        self.interruptions += other.interruptions;
        self.duplicates += other.duplicates;
    }
}

impl Ledger {
    fn add_event(&mut self, event: &Event, attempts: &[Attempt], asked: &Asked<'_>) {
        let last = attempts.last().map(|last| last.verdict.as_str());
        self.events += 1;
        self.attempts += attempts.len();
        self.scheduled += usize::from(event.deliver_at.is_some());
        self.dead += usize::from(last == Some("dead"));
        self.skipped += usize::from(last == Some("retry") && !asked.skips.is_empty());
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ledger { rounds, transactions, triggers, events, attempts, requests, dead, looks, .. } = self;
        let Ledger {
            batches,
            skipped,
            scheduled,
            pairs,
            again,
            replays,
            kills,
            steps,
            dropped,
            interruptions,
            duplicates,
            ..
        } = self;
        writeln!(out, "{rounds} rounds: {transactions} transactions, {triggers} triggers, {looks} looks at the slot")?;
        writeln!(
            out,
            "events {events} (dead {dead}, skipped {skipped}, scheduled {scheduled}), {pairs} pairs in order"
        )?;
        writeln!(
            out,
            "attempts {attempts} (again as asked {again}, replays {replays}), requests {requests} (batches {batches})"
        )?;
        write!(
            out,
            "kills {kills}, clock steps {steps}, dropped partitions {dropped}, interruptions in all {interruptions}; \
             lost 0, duplicates {duplicates}"
        )
    }
}

/// Everything that must hold of a round.
pub fn check(truth: &Truth, found: &Found, repairs: &Repairs, looks: &[Look], damage: &Damage) -> Ledger {
    for trigger in found.events.keys() {
        assert!(truth.expected.contains_key(trigger), "events of a trigger that was never made: {trigger}");
    }
    let asked = repairs.asked(found);
    let mut ledger = Ledger { rounds: 1, looks: looks.len(), ..Ledger::default() };
    (ledger.kills, ledger.steps, ledger.dropped) = (damage.kills, damage.steps, damage.dropped);
    ledger.interruptions = damage.interruptions;
    (ledger.transactions, ledger.requests) = (truth.transactions, found.requests.len());
    ledger.batches = found.requests.iter().filter(|request| events_of(request).len() > 1).count();
    let mut ends = Vec::new();
    for (trigger, expected) in &truth.expected {
        let events = found.events.get(trigger).map_or(&[][..], Vec::as_slice);
        check_log(*trigger, expected, events);
        ends.extend(expected.iter().zip(events).map(|(expected, event)| (expected.commit_end, event.seq)));
        let (is_deleted, fewest_retries) = (found.deleted.contains_key(trigger), truth.fewest_retries[trigger]);
        for event in events {
            let (attempts, asked) = (found.attempts(event.id), asked.of(*trigger, event.id));
            let arrivals = found.arrivals(event.id);
            ledger.again += check_attempts(event, attempts, arrivals, &asked, fewest_retries);
            check_end(event, attempts, &asked, is_deleted);
            ledger.duplicates += check_arrivals(event, attempts, arrivals, &asked, damage, is_deleted);
            ledger.add_event(event, attempts, &asked);
        }
        let deleted_at = found.deleted.get(trigger).copied();
        ledger.pairs += check_order(&truth.promises[trigger], expected, events, found, &asked, deleted_at);
        ledger.triggers += 1;
    }
    check_acknowledged(ends, looks);
    check_requests(found);
    ledger.replays = check_replays(found, &asked);
    let most = damage.interruptions * IN_FLIGHT;
    assert!(ledger.duplicates <= most, "{} duplicates, at most {most} were in flight", ledger.duplicates);
    ledger
}

/// Invariant 1: the log has exactly the model's events, in the order of the commits.
fn check_log(trigger: Uuid, expected: &[Expected], events: &[Event]) {
    let is_same = |expected: &Expected, event: &Event| {
        // A time that was over at the commit is none.
        let deliver_at = expected.deliver_at.filter(|at| *at > event.committed_at);
        expected.operation == event.operation && expected.marks == event.marks && deliver_at == event.deliver_at
    };
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

/// Invariant 3, as it was recorded: each attempt once, none too early, and none after the last one unless somebody
/// asked for it. Gives how many of those there were.
fn check_attempts(
    event: &Event,
    attempts: &[Attempt],
    arrivals: &[Arrival],
    asked: &Asked<'_>,
    fewest_retries: u32,
) -> usize {
    let tell = || format!("{attempts:?} {arrivals:?} of {event:?}, {asked:?}");
    assert!(attempts.first().is_none_or(|first| first.number == 0), "{}", tell());
    let mut again = 0;
    for pair in attempts.windows(2) {
        let asked_before = asked.resends_before(pair[1].started);
        // What pauses the trigger costs no retry, nor does a failure that may be part of an outage.
        let may_be_free = matches!(pair[0].status, None | Some(410 | 429 | 503));
        let (spent, starts_anew) = (pair[1].number - pair[0].number, pair[1].number == 0 && asked_before > 0);
        assert!(spent == 1 || (spent == 0 && may_be_free) || starts_anew, "{spent} retries spent: {}", tell());
        again += usize::from(pair[0].is_final());
        assert!(asked_before >= again, "an attempt after the last one: {}", tell());
        // What was skipped and is sent again does not wait for its time.
        let (is_retry, pause) = (pair[0].verdict == "retry", pair[1].started - pair[0].ended);
        assert!(pause >= SHORTEST_PAUSE || !is_retry || !asked.skips.is_empty(), "too early: {}", tell());
    }
    for attempt in attempts {
        let is_success = attempt.status.is_some_and(|status| (200..300).contains(&status));
        assert_eq!(is_success, attempt.verdict == "delivered", "{}", tell());
        let is_used_up = attempt.number >= fewest_retries as i32;
        assert!(attempt.verdict != "dead" || is_used_up, "given up too early: {}", tell());
        assert!(event.deliver_at.is_none_or(|at| attempt.started >= at), "before its time: {}", tell());
    }
    again
}

/// Invariant 3: each event was accepted, is dead, or was given up by hand.
fn check_end(event: &Event, attempts: &[Attempt], asked: &Asked<'_>, is_deleted: bool) {
    let is_done = attempts.last().is_some_and(|last| last.is_final() || !asked.skips.is_empty());
    assert!(is_done || is_deleted, "neither accepted nor dead: {attempts:?} of {event:?}, {asked:?}");
}

/// Invariant 3, as the receivers saw it: what was recorded happened, and only what was in flight came again. Gives how
/// many requests were not recorded.
fn check_arrivals(
    event: &Event,
    attempts: &[Attempt],
    arrivals: &[Arrival],
    asked: &Asked<'_>,
    damage: &Damage,
    is_deleted: bool,
) -> usize {
    let tell = || format!("{attempts:#?} {arrivals:#?} of {event:?}, {asked:?}");
    let count = |number: i32, status: i16| {
        let answers = arrivals.iter().filter(|arrival| arrival.number == number);
        answers.filter(|arrival| arrival.answered == Some(status as u16)).count()
    };
    for attempt in attempts {
        let is_real = attempt.status.is_none_or(|status| count(attempt.number, status) > 0);
        assert!(is_real, "an answer was recorded that nobody gave: {}", tell());
    }
    let unrecorded = unrecorded(attempts, arrivals);
    assert!(unrecorded <= damage.interruptions, "sent again more often than anything broke: {}", tell());
    let delivered = attempts.last().filter(|last| last.verdict == "delivered" && unrecorded > 0);
    if let Some(last) = delivered {
        let starts_anew = asked.resends_before(last.started) > 0;
        let is_before = |arrival: &Arrival| arrival.number <= last.number || starts_anew;
        let is_over = |arrival: &Arrival| arrival.at <= last.ended + CLOCKS_APART && is_before(arrival);
        // One that was asked for again after that, and under way when its node was lost, is not sent once more where it
        // was skipped before somebody else came to it, or its trigger was deleted.
        let is_given_up = is_deleted || asked.skips.iter().any(|skip| skip.until >= last.ended);
        let is_lost = |arrival: &Arrival| is_given_up && asked.resends_before(arrival.at) > 0;
        let is_explained = |arrival: &Arrival| is_over(arrival) || is_lost(arrival);
        assert!(arrivals.iter().all(is_explained), "sent again though its acceptance was recorded: {}", tell());
    }
    let is_due = |arrival: &Arrival| event.deliver_at.is_none_or(|at| arrival.at >= at);
    assert!(arrivals.iter().all(is_due), "before its time: {}", tell());
    unrecorded
}

/// How many requests should have left an attempt and have not.
fn unrecorded(attempts: &[Attempt], arrivals: &[Arrival]) -> usize {
    let count = |is: fn(&Arrival) -> bool| arrivals.iter().filter(|arrival| is(arrival)).count();
    // A batch that is answered 410 for the first time is sent once more for that and leaves none, the next one does.
    let gone_in_batches = count(|arrival| arrival.is_gone() && arrival.is_of_batch());
    let gone_alone = count(|arrival| arrival.is_gone() && !arrival.is_of_batch());
    let gone_recorded = attempts.iter().filter(|attempt| attempt.status == Some(410)).count();
    let without_attempt = gone_in_batches.saturating_sub(gone_recorded.saturating_sub(gone_alone));
    (arrivals.len() - count(Arrival::may_be_behind) - without_attempt).saturating_sub(attempts.len())
}

/// A replay sends each event of its stretch once more, but for those that it found waiting anyway, or that were skipped
/// then. Gives how many were done.
fn check_replays(found: &Found, asked: &AskedOfAll) -> usize {
    let done = found.replays.iter().filter(|replay| replay.state == "done");
    for replay in done.clone() {
        assert_eq!(replay.queued + replay.skipped, replay.events, "{replay:?}");
        let is_in = |event: &&Event| event.committed_at >= replay.from_time && event.seq <= replay.to_seq;
        let is_left_out = |event: &&Event| {
            let is_after = |attempt: &Attempt| attempt.ended + CLOCKS_APART >= replay.requested_at;
            asked.skips_of(event.id).is_empty() && !found.attempts(event.id).iter().any(is_after)
        };
        let events = found.events.get(&replay.trigger).map_or(&[][..], Vec::as_slice).iter().filter(is_in);
        // Some may have been dropped from the log before.
        let is_whole = events.clone().count() as i64 == replay.events;
        let left_out: Vec<&Event> = events.filter(is_left_out).collect();
        let is_deleted = found.deleted.contains_key(&replay.trigger);
        assert!(
            is_deleted || !is_whole || left_out.len() as i64 <= replay.skipped,
            "{replay:?} left out {left_out:#?}"
        );
    }
    done.count()
}

/// Each request is an event of the log.
fn check_requests(found: &Found) {
    let events: HashMap<Uuid, &Event> = found.events.values().flatten().map(|event| (event.id, event)).collect();
    assert_eq!(events.len(), found.events.values().map(Vec::len).sum::<usize>(), "ids that repeat");
    for (request, body) in found.requests.iter().flat_map(|one| events_of(one).into_iter().map(move |body| (one, body)))
    {
        let event = events.get(&id(&body)).unwrap_or_else(|| panic!("not in the log: {request:?}"));
        let mark = |row: &str| body["event"]["data"][row]["mark"].as_i64();
        let is_same = body["event"]["op"] == event.operation.as_str() && [mark("old"), mark("new")] == event.marks;
        assert!(is_same, "not what the log has, {event:?}: {request:?}");
    }
}
