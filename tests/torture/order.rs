//! Invariant 4: what a trigger's `ordering` and `on_dead` promise.

use std::collections::HashMap;

use crate::found::{Arrival, Event, Found};
use crate::ledger::CLOCKS_APART;
use crate::model::{Expected, Promise};
use crate::repairs::AskedOfAll;

/// An event is not sent before the one that it waits for was accepted, is dead, or was given up by hand. Gives how many
/// pairs there were.
pub fn check_order(
    promise: &Promise,
    expected: &[Expected],
    events: &[Event],
    found: &Found,
    asked: &AskedOfAll,
    deleted_at: Option<i64>,
) -> usize {
    let (mut before, mut pairs): (HashMap<&str, &Event>, _) = (HashMap::new(), 0);
    for (expected, event) in expected.iter().zip(events) {
        let key = match (promise.ordering, expected.row.as_deref()) {
            (Some("trigger"), _) if event.deliver_at.is_none() => "",
            (Some("row"), Some(row)) => row,
            _ => continue,
        };
        let Some(previous) = before.insert(key, event) else { continue };
        // A batch that is refused as a whole comes again one by one.
        let counts = |arrival: &&Arrival| !promise.is_batched || arrival.is_accepted();
        let Some(first) = found.arrivals(event.id).iter().find(counts) else { continue };
        let (arrivals, attempts) = (found.arrivals(previous.id), found.attempts(previous.id));
        let is_accepted = arrivals.iter().any(|arrival| arrival.is_accepted() && arrival.place < first.place);
        let is_dead = promise.goes_on_after_dead
            && attempts.iter().any(|one| one.verdict == "dead" && one.ended <= first.at + CLOCKS_APART);
        let skips = asked.skips_of(previous.id);
        let is_skipped = skips.iter().any(|skip| skip.from <= first.at);
        // A deletion drops what waits, and nodes are told of it a moment later.
        let is_dropped = deleted_at.is_some_and(|at| at <= first.at);
        assert!(
            is_accepted || is_dead || is_skipped || is_dropped,
            "{promise:?}, {key}: {event:?} came at {first:?}, before {previous:?}: {arrivals:#?} {attempts:#?}, \
             skipped {skips:?}, deleted {deleted_at:?}"
        );
        pairs += 1;
    }
    pairs
}
