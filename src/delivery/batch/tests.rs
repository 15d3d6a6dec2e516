//! Splitting batches, what becomes of each event, and what is sent.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::request::{body, most_bytes};
use super::*;
use crate::delivery::Endpoint;
use crate::delivery::rows::{Full, Rows};
use crate::model::{
    Event, Lsn, OnDead, Operation, Ordering, Position, Response, RetryConf, Statuses, Subject, TableName, Timestamp,
    WHOLE_TRIGGER,
};
use crate::queue::{Deferred, Logged};

fn endpoint(ordering: Ordering, num_retries: u32) -> Endpoint {
    let retry_conf = RetryConf { num_retries, ..RetryConf::default() };
    Endpoint { retry_conf, ordering, ..Endpoint::example() }
}

/// The event with this place in the log, of this row; 0 stands for none.
fn logged(seq: i64, row: RowHash) -> Logged {
    let event = Event { row_hash: (row != 0).then_some(row), ..Event::example(seq as u64) };
    Logged { seq, source_id: 1, event, replay_id: None }
}

/// Rows with these events from the log: place and row.
fn rows(events: &[(i64, RowHash)]) -> Rows {
    let mut rows = Rows::default();
    events.iter().for_each(|(seq, row)| rows.push_fresh(logged(*seq, *row)));
    rows
}

/// A new batch of so many events without a row.
pub(in crate::delivery) fn of_size(events: usize) -> EventBatch {
    let events = (1..=events).map(|seq| single(rows(&[(seq as i64, 0)])));
    EventBatch::new(events.collect()).expect("events")
}

fn gather(rows: &mut Rows, ordering: Ordering, events: usize) -> bool {
    rows.gather(ordering, Full { events, bytes: 1 << 20 }, Instant::now(), |_| 1)
}

fn seqs(events: &[Ready]) -> Vec<i64> {
    events.iter().map(|ready| ready.logged.seq).collect()
}

/// Gathers and takes one.
fn take(rows: &mut Rows, ordering: Ordering, events: usize) -> EventBatch {
    gather(rows, ordering, events);
    rows.take_batch().expect("a batch")
}

fn status(status: u16) -> Outcome {
    Outcome::Answered(Response { status, ..Response::default() })
}

fn settled(batch: EventBatch, endpoint: &Endpoint, outcome: &Outcome, refused: &[i64]) -> Settlement {
    let refused = match refused {
        [] => Refused::Nothing,
        seqs => Refused::These(seqs.iter().map(|seq| Uuid::from_u128(*seq as u128)).collect()),
    };
    settle(batch, &request(endpoint, false), outcome, &refused, true, 60)
}

fn request(endpoint: &Endpoint, was_gone: bool) -> Request {
    let (started, started_at, ended_at) = (Instant::now(), Timestamp(0), Timestamp(1_000_000));
    let endpoint = Arc::new(endpoint.clone());
    Request { endpoint, started, started_at, ended_at, duration_micros: 0, was_gone, withdrawn: false }
}

/// Place, first letter of the verdict, and the row that it unlocks.
fn shown(settlement: &Settlement) -> Vec<(i64, char, Option<RowHash>)> {
    let letter = |verdict| match verdict {
        Verdict::Delivered => '+',
        Verdict::RetryAt(_) => 'r',
        Verdict::Dead => 'd',
        Verdict::Paused => 'p',
    };
    settlement.settled.iter().map(|one| (one.seq, letter(one.attempt.verdict), one.lock)).collect()
}

#[test]
fn events_of_a_row_ride_together_in_their_order_and_others_wait_for_them() {
    let mut rows = rows(&[(1, 7), (2, 7), (3, 8), (4, 0), (5, 7), (6, 9)]);
    assert!(gather(&mut rows, Ordering::Row, 4));
    let first = rows.take_batch().expect("full");
    assert_eq!(seqs(&first.into_events()), [1, 2, 3, 4]);
    assert!(!gather(&mut rows, Ordering::Row, 4), "5 waits for 1 and 2");
    assert_eq!(seqs(&rows.take_batch().expect("a rest").into_events()), [6]);
    rows.push_fresh(logged(7, 7));
    assert!(!gather(&mut rows, Ordering::Row, 4) && rows.gathered_since().is_none());
    rows.pass_lock(7, Uuid::from_u128(2));
    rows.unlock(7, Uuid::from_u128(2));
    assert_eq!(seqs(&take(&mut rows, Ordering::Row, 4).into_events()), [5, 7], "all that waited");
    assert_eq!((rows.len(), rows.bytes()), (0, 0));
}

/// The batch waits for its rate, and is looked at again before it goes.
#[test]
fn what_is_small_enough_does_not_overtake_what_had_no_room() {
    let mut rows = rows(&[(1, 7)]);
    take(&mut rows, Ordering::Row, 9);
    [2, 3].into_iter().for_each(|seq| rows.push_fresh(logged(seq, 7)));
    let gather = |rows: &mut Rows| {
        let size = |ready: &Ready| if ready.logged.seq == 3 { 10 } else { 1 };
        rows.gather(Ordering::Row, Full { events: 9, bytes: 5 }, Instant::now(), size)
    };
    assert!(!gather(&mut rows), "both wait for the first one");
    rows.unlock(7, Uuid::from_u128(1));
    rows.push_fresh(logged(4, 7));
    for expected in [[2], [3], [4]] {
        assert_eq!([gather(&mut rows), gather(&mut rows)], [expected != [4]; 2]);
        let events = rows.take_batch().expect("a batch").into_events();
        assert_eq!(seqs(&events), expected);
        rows.unlock(7, events[0].logged.id());
    }
}

#[test]
fn a_batch_waits_from_its_first_event_on() {
    let (mut rows, now) = (Rows::default(), Instant::now());
    let earlier = now.checked_sub(std::time::Duration::from_secs(5)).expect("the machine runs");
    let full = Full { events: 9, bytes: 9 };
    rows.has_waited_since(earlier);
    rows.push_fresh(logged(1, 7));
    rows.gather(Ordering::Row, full, now, |_| 1);
    assert_eq!(rows.gathered_since(), Some(now), "nothing waited before it");
    rows.take_batch().expect("a batch");
    rows.push_fresh(logged(2, 8));
    rows.has_waited_since(earlier);
    rows.gather(Ordering::Row, full, now, |_| 1);
    assert_eq!(rows.gathered_since(), Some(earlier), "it came while the request was under way");
}

#[test]
fn a_strict_trigger_has_one_batch_under_way_and_none_behind_what_failed() {
    let strict = endpoint(Ordering::Trigger, 5);
    let mut rows = rows(&[(1, 7), (2, 8), (3, 7), (4, 9), (5, 7)]);
    let batch = take(&mut rows, Ordering::Trigger, 3);
    assert_eq!(seqs(&batch.events), [1, 2, 3]);
    assert!(!rows.can_go(Ordering::Trigger));
    let settlement = settled(batch, &strict, &status(200), &[2]);
    assert_eq!(shown(&settlement), [(1, '+', None), (2, 'r', Some(WHOLE_TRIGGER))]);
    assert_eq!(seqs(&settlement.back), [3]);
    rows.put_back(settlement.back);
    rows.pass_lock(WHOLE_TRIGGER, Uuid::from_u128(2));
    rows.hold(WHOLE_TRIGGER);
    rows.unlock(WHOLE_TRIGGER, Uuid::from_u128(2));
    assert!(rows.take_parked().is_empty() && !rows.can_go(Ordering::Trigger));
    rows.push_deferred(Deferred::example(logged(2, 8), 1, Some(WHOLE_TRIGGER)));
    assert!(gather(&mut rows, Ordering::Trigger, 3), "nothing else could come to it");
    assert_eq!(seqs(&rows.take_batch().expect("the retry").into_events()), [2]);
    rows.unlock(WHOLE_TRIGGER, Uuid::from_u128(2));
    rows.free(WHOLE_TRIGGER);
    assert_eq!(seqs(&take(&mut rows, Ordering::Trigger, 3).into_events()), [3, 4, 5]);
}

#[test]
fn what_follows_a_refused_event_of_its_row_comes_again_behind_it() {
    let conf = endpoint(Ordering::Row, 5);
    let events = [(1, 7), (2, 8), (3, 7), (4, 8), (5, 7), (6, 0)];
    let settlement = settled(take(&mut rows(&events), Ordering::Row, 9), &conf, &status(200), &[3]);
    let expected = [(1, '+', None), (2, '+', None), (3, 'r', Some(7)), (4, '+', Some(8)), (6, '+', None)];
    assert_eq!((shown(&settlement), seqs(&settlement.back)), (expected.to_vec(), vec![5]));
    // Nothing waits for an event that is dead, and what is not recorded yet is not forgotten by a newer one's success.
    let no_retries = endpoint(Ordering::Row, 0);
    let settlement = settled(take(&mut rows(&events), Ordering::Row, 9), &no_retries, &status(200), &[3]);
    let accepted = shown(&settlement).iter().filter(|one| one.1 == '+').count();
    assert_eq!((accepted, shown(&settlement)[2], settlement.back.len()), (5, (3, 'd', Some(7)), 0));
    let holding = Endpoint { on_dead: OnDead::Hold, ..no_retries };
    let settlement = settled(take(&mut rows(&events), Ordering::Row, 9), &holding, &status(500), &[]);
    assert_eq!(shown(&settlement), [(1, 'd', Some(7)), (2, 'd', Some(8)), (6, 'd', None)]);
    assert_eq!(seqs(&settlement.back), [3, 4, 5]);
    let loose = endpoint(Ordering::None, 5);
    let settlement = settled(take(&mut rows(&events), Ordering::None, 9), &loose, &status(200), &[1, 2]);
    assert_eq!(shown(&settlement).iter().filter(|one| one.1 == '+').count(), 4);
    assert!(settlement.back.is_empty());
}

#[test]
fn followers_of_a_failed_event_are_parked_in_their_order_before_newer_ones() {
    let mut rows = rows(&[(1, 7), (2, 7), (3, 7)]);
    let batch = take(&mut rows, Ordering::Row, 3);
    rows.push_fresh(logged(4, 7));
    assert!(!gather(&mut rows, Ordering::Row, 3));
    let settlement = settled(batch, &endpoint(Ordering::Row, 5), &status(500), &[]);
    assert_eq!(shown(&settlement), [(1, 'r', Some(7))]);
    rows.put_back(settlement.back);
    rows.pass_lock(7, Uuid::from_u128(1));
    rows.hold(7);
    rows.unlock(7, Uuid::from_u128(1));
    let parked: Vec<i64> = rows.take_parked().iter().map(|parked| parked.seq).collect();
    assert_eq!(parked, [2, 3, 4]);
}

/// Sends until nothing is left; a request with any of `bad` is answered with `answer`. Gives each event's outcome, and
/// the sizes of the requests.
fn hunt(rows: &mut Rows, ordering: Ordering, bad: &[i64], answer: u16) -> (BTreeMap<i64, char>, Vec<usize>) {
    let (conf, mut outcomes, mut sizes) = (endpoint(ordering, 0), BTreeMap::new(), Vec::new());
    while rows.has_batch_anew() || gather(rows, ordering, 64) || rows.gathered_since().is_some() {
        let batch = rows.take_batch().expect("a batch");
        sizes.push(batch.len());
        let is_bad = batch.events.iter().any(|ready| bad.contains(&ready.logged.seq));
        let outcome = status(if is_bad { answer } else { 204 });
        match batch.next(&request(&conf, false), &outcome) {
            Next::Anew { batches, back } => {
                rows.put_back(back);
                rows.send_anew(batches.into_iter());
            }
            Next::Settle(batch) => {
                let settlement = settled(batch, &conf, &outcome, &[]);
                assert!(settlement.back.is_empty(), "without retries nobody waits");
                for (seq, verdict, lock) in shown(&settlement) {
                    assert_eq!(outcomes.insert(seq, verdict), None, "{seq} twice");
                    if let Some(row) = lock {
                        rows.pass_lock(row, Uuid::from_u128(seq as u128));
                        rows.unlock(row, Uuid::from_u128(seq as u128));
                    }
                }
            }
        }
        assert!(sizes.len() < 200, "no end: {sizes:?}");
    }
    (outcomes, sizes)
}

#[test]
fn a_bad_event_is_found_by_halving_and_pays_alone() {
    let order = [Ordering::Row, Ordering::None, Ordering::Trigger];
    for (ordering, answer, bad) in order.into_iter().flat_map(|ordering| {
        [(ordering, 400, vec![37]), (ordering, 413, vec![1]), (ordering, 413, vec![5, 6, 64]), (ordering, 400, vec![])]
    }) {
        // Some rows have several events.
        let events: Vec<(i64, RowHash)> = (1..=64).map(|seq| (seq, 1 + seq % 40)).collect();
        let mut rows = rows(&events);
        let (outcomes, sizes) = hunt(&mut rows, ordering, &bad, answer);
        let case = format!("{ordering:?}, {answer} for {bad:?}: {sizes:?}");
        let dead: Vec<i64> = outcomes.iter().filter(|(_, verdict)| **verdict == 'd').map(|(seq, _)| *seq).collect();
        assert_eq!((dead, outcomes.len()), (bad.clone(), 64), "{case}");
        assert_eq!((rows.len(), rows.bytes()), (0, 0), "{case}");
        assert!(sizes.len() <= 1 + 45 * bad.len(), "{case}");
    }
}

#[test]
fn what_an_answer_to_a_batch_means_for_it() {
    let batch = || of_size(4);
    let halves = |next| match next {
        Next::Settle(_) => Vec::new(),
        Next::Anew { batches, back } => {
            assert!(back.is_empty());
            batches.into_iter().map(|batch| (batch.stage, batch.len())).collect()
        }
    };
    let later = Outcome::Answered(Response { status: 413, retry_after_sec: Some(5), ..Response::default() });
    let conf = endpoint(Ordering::Row, 5);
    let next = |batch: EventBatch, outcome: &Outcome| halves(batch.next(&request(&conf, false), outcome));
    for outcome in [status(200), status(404), status(422), status(500), later] {
        assert_eq!(next(batch(), &outcome), [], "{outcome:?}");
    }
    let in_halves = [(Stage::Half, 2), (Stage::Half, 2)];
    assert_eq!(next(batch(), &status(413)), in_halves);
    assert_eq!(next(batch(), &status(400)), [(Stage::Again, 4)]);
    let again = || EventBatch { stage: Stage::Again, ..batch() };
    assert_eq!(next(again(), &status(400)), in_halves);
    let one = || EventBatch::half(batch().events.split_off(3));
    assert_eq!(next(one(), &status(400)), []);
    // The first 410 is not paid for, but only once, and where a second one would pause the trigger.
    assert_eq!(next(batch(), &status(410)), [(Stage::New, 4)]);
    assert_eq!(next(again(), &status(410)), [(Stage::Again, 4)]);
    let half = || EventBatch::half(batch().events);
    assert_eq!(next(half(), &status(410)), [(Stage::Half, 4)]);
    let after_410 = |batch: EventBatch| EventBatch { was_gone: true, ..batch };
    assert!([batch(), again(), half()].into_iter().all(|batch| next(after_410(batch), &status(410)).is_empty()));
    assert_eq!(next(after_410(batch()), &status(400)), [(Stage::Again, 4)]);
    assert_eq!(next(after_410(again()), &status(400)), in_halves);
    assert_eq!(next(one(), &status(410)), []);
    assert_eq!(halves(batch().next(&request(&conf, true), &status(410))), []);
    let retry_conf = RetryConf { give_up_on: vec![Statuses::One(410)], ..conf.retry_conf.clone() };
    let picky = Endpoint { retry_conf, ..conf.clone() };
    assert_eq!(halves(batch().next(&request(&picky, false), &status(410))), []);
}

fn single(mut rows: Rows) -> Ready {
    rows.next(Ordering::None).expect("an event")
}

#[test]
fn an_event_that_is_refused_alone_goes_alone_from_then_on() {
    let mut rows = rows(&[(1, 7), (2, 8), (3, 9), (4, 10)]);
    rows.set_loner(Uuid::from_u128(3), true);
    for expected in [vec![1, 2], vec![3], vec![4]] {
        let is_full = gather(&mut rows, Ordering::Row, 10);
        assert_eq!(is_full, expected != [4], "what waits for nothing");
        assert_eq!(seqs(&rows.take_batch().expect("a batch").into_events()), expected);
    }
}

#[test]
fn what_is_scattered_goes_out_event_by_event_in_its_order() {
    let mut rows = rows(&[(1, 7), (2, 7), (3, 8), (4, 0), (5, 7)]);
    assert!(gather(&mut rows, Ordering::Row, 2));
    let batch = rows.take_batch().expect("full");
    rows.send_anew([batch].into_iter());
    gather(&mut rows, Ordering::Row, 2);
    let bytes = rows.bytes();
    rows.scatter();
    assert_eq!((rows.len(), rows.bytes()), (5, bytes));
    let mut order = Vec::new();
    while let Some(ready) = rows.next(Ordering::Row) {
        order.push(ready.logged.seq);
        if let Some(row) = ready.lock {
            rows.unlock(row, ready.logged.id());
        }
    }
    let of_the_row: Vec<i64> = order.iter().copied().filter(|seq| [1, 2, 5].contains(seq)).collect();
    assert_eq!((of_the_row, order.iter().collect::<HashSet<_>>().len()), (vec![1, 2, 5], 5), "{order:?}");
    assert_eq!((rows.len(), rows.bytes()), (0, 0));
}

#[test]
fn an_element_is_what_a_request_alone_would_have_said_with_its_headers() {
    let mut ready: Vec<Ready> = (1..=2).map(|seq| single(rows(&[(seq, 0)]))).collect();
    ready[1].logged.event.old_partial = true;
    ready[1].logged.event.missing = Some(Arc::from(["a,b".to_owned(), "c".to_owned()]));
    let conf = endpoint(Ordering::Row, 3);
    let sent: Vec<Value> = serde_json::from_slice(&body(&conf, &ready)).expect("an array");
    let alone = |ready: &Ready| -> Value {
        serde_json::from_slice(&crate::delivery::body(&conf, &ready.logged.event, ready.number)).expect("JSON")
    };
    assert_eq!(sent[0], alone(&ready[0]));
    let mut second = alone(&ready[1]);
    second["headers"] = json!({"walhook-old": "partial", "walhook-missing-columns": "a%2Cb,c"});
    assert_eq!(sent[1], second);
}

#[test]
fn no_body_is_larger_than_was_reckoned() {
    let wide = "\u{1}".repeat(63);
    let event = Event {
        operation: Operation::Truncate,
        subject: Arc::new(Subject::Table(TableName::new(&wide, &wide))),
        position: Position { commit_lsn: Lsn(u64::MAX), ordinal: u64::MAX },
        xid: u32::MAX,
        ..Event::example(1)
    };
    let full = Event {
        missing: Some(Arc::from(["\u{fc}".repeat(60), "x".into()])),
        old_partial: true,
        undecided: true,
        backfill_id: Some(Uuid::max()),
        deliver_at: Some(event.committed_at),
        ..event.clone()
    };
    let custom = Event { subject: Arc::new(Subject::Type(wide)), ..event.clone() };
    let conf = Endpoint { transaction: true, name: "n".repeat(42), ..endpoint(Ordering::Row, u32::MAX) };
    for (event, replay_id) in [(event, None), (full, Some(Uuid::max())), (custom, None)] {
        let ready = Ready { number: u32::MAX, ..single(rows(&[(1, 0)])) };
        let ready = Ready { logged: Logged { event, replay_id, ..ready.logged }, ..ready };
        let (length, most) = (body(&conf, std::slice::from_ref(&ready)).len(), most_bytes(&conf, &ready));
        assert!(length <= most, "{length} bytes of {most}");
    }
}
