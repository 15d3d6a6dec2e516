//! What a receiver must know about an event beside the payload, which has no place for it: headers of walhook's own.

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::queue::Logged;

/// Names columns that belong in `new` but were not in the WAL.
const MISSING_COLUMNS: HeaderName = HeaderName::from_static("walhook-missing-columns");
/// `partial`: `old` holds the replica identity's columns only.
const OLD: HeaderName = HeaderName::from_static("walhook-old");
/// `undecided`: none of the trigger's `update.columns` may have changed.
const UPDATE: HeaderName = HeaderName::from_static("walhook-update");

/// The id of the backfill that sends the row.
const BACKFILL: HeaderName = HeaderName::from_static("walhook-backfill");
/// The id of the replay that sends the event again.
const REPLAY: HeaderName = HeaderName::from_static("walhook-replay");

/// What stays as it is in a column's name.
const COLUMN_NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-').remove(b'.').remove(b'$');

/// The headers for an event; none for one whose rows are whole, the first time.
pub(super) fn headers(logged: &Logged) -> HeaderMap {
    let (mut headers, event) = (HeaderMap::new(), &logged.event);
    if let Some(value) = event.missing.as_deref().and_then(|names| HeaderValue::from_str(&column_list(names)).ok()) {
        headers.insert(MISSING_COLUMNS, value);
    }
    if event.old_partial {
        headers.insert(OLD, HeaderValue::from_static("partial"));
    }
    if event.undecided {
        headers.insert(UPDATE, HeaderValue::from_static("undecided"));
    }
    for (name, id) in [(BACKFILL, event.backfill_id), (REPLAY, logged.replay_id)] {
        if let Some(value) = id.and_then(|id| HeaderValue::from_str(&id.to_string()).ok()) {
            headers.insert(name, value);
        }
    }
    headers
}

/// Names joined by commas; percent-encoded, as a name may hold a comma and what a header may not.
fn column_list(names: &[String]) -> String {
    let encoded: Vec<String> = names.iter().map(|name| utf8_percent_encode(name, COLUMN_NAME).to_string()).collect();
    encoded.join(",")
}
