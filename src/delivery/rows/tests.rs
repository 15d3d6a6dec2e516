//! In which order events may go, and what waits for what.

use uuid::Uuid;

use super::*;

/// The event with this place in the log, of this row.
fn event(seq: i64, row_hash: Option<RowHash>) -> Logged {
    let event = Event { row_hash, ..Event::example(seq as u64) };
    Logged { seq, source_id: 1, event, replay_id: None }
}

fn rows(events: &[(i64, Option<RowHash>)]) -> Rows {
    let mut rows = Rows::default();
    events.iter().for_each(|(seq, row)| rows.push_fresh(event(*seq, *row)));
    rows
}

#[test]
fn events_that_are_sent_again_together_keep_their_order_and_go_before_those_of_the_log() {
    let mut rows = rows(&[(9, Some(5))]);
    (1..=4).for_each(|seq| rows.push_deferred(Deferred::example(event(seq, Some(5)), 0, None)));
    let mut order = Vec::new();
    loop {
        let started = start(&mut rows, Ordering::Row);
        let [(seq, _)] = started[..] else { break };
        order.push(seq);
        rows.unlock(5, Uuid::from_u128(seq as u128));
    }
    let again: Vec<i64> = order.iter().copied().filter(|seq| *seq < 9).collect();
    assert_eq!((again, order.len()), (vec![1, 2, 3, 4], 5), "{order:?}");
}

/// Starts whatever may go; gives each event's place with what it locks.
fn start(rows: &mut Rows, ordering: Ordering) -> Vec<(i64, Option<RowHash>)> {
    let mut started = Vec::new();
    while rows.can_go(ordering)
        && let Some(ready) = rows.next(ordering)
    {
        started.push((ready.logged.seq, ready.lock));
    }
    started
}

/// Its ordering was replaced while an event of a row was under way and another one waited for it: that one's turn
/// comes when a retry is there already, which has to wait for it.
#[test]
fn an_event_whose_turn_has_come_goes_though_one_that_waits_for_it_stands_before_it() {
    let mut rows = rows(&[(1, Some(7)), (2, Some(7))]);
    assert_eq!(start(&mut rows, Ordering::Row), [(1, Some(7))]);
    rows.push_deferred(Deferred::example(event(3, Some(8)), 1, Some(8)));
    unlock(&mut rows, 7, 1);
    assert_eq!(start(&mut rows, Ordering::Trigger), [(2, Some(7))]);
    unlock(&mut rows, 7, 2);
    assert_eq!(start(&mut rows, Ordering::Trigger), [(3, Some(WHOLE_TRIGGER))]);
}

fn unlock(rows: &mut Rows, row: RowHash, seq: i64) {
    rows.unlock(row, Uuid::from_u128(seq as u128));
}

/// Nothing is left and nothing was forgotten to be counted.
fn check_empty(rows: &Rows) {
    assert!(rows.rows.is_empty(), "{:?}", rows.rows);
    assert_eq!((rows.len(), rows.bytes(), rows.busy, rows.held, rows.whole), (0, 0, 0, 0, false));
}

const A: Option<RowHash> = Some(7);
const B: Option<RowHash> = Some(8);

#[test]
fn one_event_of_a_row_goes_at_a_time_and_in_order() {
    let mut rows = rows(&[(1, A), (2, A), (3, B), (4, None), (5, None), (6, A)]);
    assert_eq!(start(&mut rows, Ordering::Row), [(1, A), (3, B), (4, None), (5, None)]);
    rows.push_fresh(event(7, B));
    assert_eq!(start(&mut rows, Ordering::Row), []);
    unlock(&mut rows, 8, 3);
    unlock(&mut rows, 7, 1);
    assert_eq!(start(&mut rows, Ordering::Row), [(7, B), (2, A)]);
    unlock(&mut rows, 7, 1);
    assert_eq!(start(&mut rows, Ordering::Row), [], "the lock is another event's by now");
    unlock(&mut rows, 7, 2);
    assert_eq!(start(&mut rows, Ordering::Row), [(6, A)]);
    unlock(&mut rows, 7, 6);
    unlock(&mut rows, 8, 7);
    check_empty(&rows);
}

#[test]
fn what_follows_in_a_held_row_is_parked_until_the_row_is_free() {
    let mut rows = rows(&[(1, A), (2, A), (3, A), (4, B)]);
    assert_eq!(start(&mut rows, Ordering::Row), [(1, A), (4, B)]);
    rows.hold(7);
    unlock(&mut rows, 7, 1);
    rows.push_fresh(event(5, A));
    assert_eq!(start(&mut rows, Ordering::Row), []);
    let parked: Vec<_> = rows.take_parked().into_iter().map(|parked| (parked.row, parked.seq)).collect();
    assert_eq!(parked, [(7, 2), (7, 3), (7, 5)]);
    assert!(!rows.wants_to_park());
    // Its retry goes, and another one that is sent again; not both at a time.
    rows.push_deferred(Deferred::example(event(1, A), 1, A));
    rows.push_deferred(Deferred::example(event(0, A), 0, None));
    assert_eq!(start(&mut rows, Ordering::Row), [(1, A)]);
    rows.push_fresh(event(6, A));
    unlock(&mut rows, 7, 1);
    assert_eq!(start(&mut rows, Ordering::Row), [(0, A)], "6 waits until the record says that the row is free");
    rows.free(7);
    assert_eq!(start(&mut rows, Ordering::Row), []);
    unlock(&mut rows, 7, 0);
    assert_eq!(start(&mut rows, Ordering::Row), [(6, A)]);
    assert_eq!(rows.take_parked().len(), 0);
    unlock(&mut rows, 7, 6);
    unlock(&mut rows, 8, 4);
    check_empty(&rows);
}

#[test]
fn what_comes_along_with_an_event_goes_after_it_or_not_at_all() {
    let mut rows = Rows::default();
    rows.hold(7);
    (1..=4).for_each(|seq| rows.push_deferred(Deferred::example(event(seq, A), u32::from(seq == 1), A)));
    rows.push_deferred(Deferred::example(event(5, B), 0, B));
    // Those of the row wait for each other, wherever they are.
    assert_eq!(rows.next(Ordering::Row).map(|ready| ready.logged.seq), Some(1));
    assert!(rows.rows[&7].waiting.is_empty(), "not looked at yet");
    unlock(&mut rows, 7, 1);
    assert_eq!(start(&mut rows, Ordering::Row), [(2, A), (5, B)]);
    rows.push_deferred(Deferred::example(event(6, A), 0, A));
    // 2 fails, so none of 3, 4 and 6 may go; they are fetched again with it.
    let ids = |seqs: &[u128]| seqs.iter().map(|seq| Uuid::from_u128(*seq)).collect::<Vec<_>>();
    assert_eq!(rows.drop_behind(7), ids(&[6, 3, 4]));
    unlock(&mut rows, 7, 2);
    assert_eq!(start(&mut rows, Ordering::Row), []);
    rows.push_deferred(Deferred::example(event(2, A), 1, A));
    assert_eq!(start(&mut rows, Ordering::Row), [(2, A)]);
    unlock(&mut rows, 7, 2);
    rows.free(7);
    unlock(&mut rows, 8, 5);
    check_empty(&rows);
}

#[test]
fn without_order_nothing_waits() {
    let mut rows = rows(&[(1, A), (2, A), (3, None)]);
    rows.hold(7);
    rows.push_deferred(Deferred::example(event(0, A), 1, A));
    assert_eq!(start(&mut rows, Ordering::None), [(1, None), (0, None), (2, None), (3, None)]);
    rows.free(7);
    check_empty(&rows);
}

#[test]
fn a_strict_trigger_sends_one_event_at_a_time_and_parks_none() {
    let mut rows = rows(&[(1, A), (2, B), (3, None)]);
    let whole = Some(WHOLE_TRIGGER);
    assert_eq!(start(&mut rows, Ordering::Trigger), [(1, whole)]);
    rows.hold(WHOLE_TRIGGER);
    unlock(&mut rows, WHOLE_TRIGGER, 1);
    assert!(!rows.can_go(Ordering::Trigger));
    assert_eq!(rows.take_parked().len(), 0);
    rows.push_deferred(Deferred::example(event(1, A), 1, whole));
    rows.push_deferred(Deferred::example(event(9, None), 0, None));
    assert_eq!(start(&mut rows, Ordering::Trigger), [(1, whole)]);
    unlock(&mut rows, WHOLE_TRIGGER, 1);
    rows.free(WHOLE_TRIGGER);
    for seq in [2, 9, 3] {
        assert_eq!(start(&mut rows, Ordering::Trigger), [(seq, whole)]);
        unlock(&mut rows, WHOLE_TRIGGER, seq);
    }
    check_empty(&rows);
}

#[test]
fn a_replaced_ordering_waits_for_what_the_old_one_held() {
    let mut rows = rows(&[(1, A), (2, A), (3, B)]);
    assert_eq!(start(&mut rows, Ordering::Row), [(1, A), (3, B)]);
    rows.push_fresh(event(4, B));
    assert_eq!(start(&mut rows, Ordering::Trigger), []);
    unlock(&mut rows, 7, 1);
    assert_eq!(start(&mut rows, Ordering::Trigger), [(2, A)], "its row's turn came before");
    unlock(&mut rows, 7, 2);
    assert_eq!(start(&mut rows, Ordering::Trigger), []);
    unlock(&mut rows, 8, 3);
    assert_eq!(start(&mut rows, Ordering::Trigger), [(4, Some(WHOLE_TRIGGER))]);
    rows.push_fresh(event(5, A));
    assert_eq!(start(&mut rows, Ordering::Row), [], "one of the whole trigger's is under way");
    unlock(&mut rows, WHOLE_TRIGGER, 4);
    assert_eq!(start(&mut rows, Ordering::Row), [(5, A)]);
    unlock(&mut rows, 7, 5);
    check_empty(&rows);
}

#[test]
fn neither_the_log_nor_what_is_sent_again_keeps_the_other_waiting() {
    let mut rows = rows(&[(1, None), (2, None), (3, None)]);
    (10..13).for_each(|seq| rows.push_deferred(Deferred::example(event(seq, None), 0, None)));
    let started = start(&mut rows, Ordering::Row);
    let places: Vec<i64> = started.into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(places, [1, 10, 2, 11, 3, 12]);
}
