//! What writers say inside their transactions, as logical messages with walhook's prefix: `sql/migrations` has the
//! functions that write them. Anybody can write one by hand, so nothing about them is taken for granted.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::warn;

use crate::model::{EVENT_TYPE_LIMIT, Lsn, Timestamp};

/// The prefix of walhook's messages; all others are somebody else's.
pub(super) const PREFIX: &str = "walhook";
/// The longest context, in bytes: it is stored with each event.
const CONTEXT_LIMIT: usize = 8 * 1024;

/// A message of a transaction.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// `walhook.set_context`: for the events that follow in the transaction; `None` ends it.
    Context(Option<Bytes>),
    /// `walhook.emit`.
    Event { event_type: Cow<'a, str>, data: &'a [u8], deliver_at: Option<Timestamp> },
}

/// In seconds: a little more than the 10 years that `walhook.emit` allows.
const LONGEST_WAIT_SEC: u64 = 3_660 * 86_400;

impl Message<'_> {
    /// As it is to be taken in the transaction that committed at this time: what is due already has no time of its own.
    /// A transaction of a replication origin may have a time from long ago, so the latest is counted from `now`, too.
    pub(super) fn committed(self, committed_at: Timestamp, now: Timestamp) -> Result<Self, String> {
        let latest = committed_at.max(now).plus_seconds(LONGEST_WAIT_SEC);
        match self {
            Message::Event { deliver_at: Some(at), .. } if at > latest => {
                Err("it is to be delivered more than 10 years later".into())
            }
            Message::Event { event_type, data, deliver_at } => {
                Ok(Message::Event { event_type, data, deliver_at: deliver_at.filter(|at| *at > committed_at) })
            }
            Message::Context(_) => Ok(self),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", bound(deserialize = "'de: 'a"))]
enum Form<'a> {
    Context(Option<&'a RawValue>),
    Event(EventForm<'a>),
}

#[derive(Deserialize)]
struct EventForm<'a> {
    #[serde(rename = "type", borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
    /// Microseconds since 1970.
    #[serde(default)]
    deliver_at: Option<i64>,
}

/// Reads a message's content. The error says what is wrong with it and holds nothing of it.
pub(super) fn decode(content: &[u8]) -> Result<Message<'_>, String> {
    let form = serde_json::from_slice(content).map_err(|error| {
        // The error's own text may quote values.
        format!("it is not what walhook.emit or walhook.set_context write, from column {} on", error.column())
    })?;
    match form {
        Form::Context(None) => Ok(Message::Context(None)),
        Form::Context(Some(context)) => {
            let context = context.get();
            if !context.starts_with('{') {
                return Err("its context is not an object".into());
            }
            if context.len() > CONTEXT_LIMIT {
                return Err(format!("its context is longer than {CONTEXT_LIMIT} bytes"));
            }
            Ok(Message::Context(Some(Bytes::copy_from_slice(context.as_bytes()))))
        }
        Form::Event(EventForm { event_type, data, deliver_at }) => {
            if event_type.is_empty() || event_type.len() > EVENT_TYPE_LIMIT {
                return Err(format!("its event type has not 1 to {EVENT_TYPE_LIMIT} bytes"));
            }
            let deliver_at = deliver_at.map(Timestamp);
            Ok(Message::Event { event_type, data: data.get().as_bytes(), deliver_at })
        }
    }
}

/// JSON with an escape in place of each character that is not ASCII; `None` where it has none. For a queue whose
/// database has not all characters: anybody may write such a message, and one that cannot be stored would stop capture.
pub(super) fn escaped(json: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(json).ok().filter(|text| !text.is_ascii())?;
    let mut out = String::with_capacity(2 * text.len());
    for character in text.chars() {
        if character.is_ascii() {
            out.push(character);
            continue;
        }
        // Outside of its strings JSON is ASCII.
        character.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
    }
    Some(out.into_bytes())
}

/// Messages that could not be read: counted, and told once in a while, for a writer may make very many.
#[derive(Debug, Default)]
pub(super) struct Refused {
    count: u64,
    told_at: Option<Instant>,
}

impl Refused {
    const TELL_EVERY: Duration = Duration::from_secs(60);

    /// Notes one in the transaction that commits at `commit_lsn`.
    pub fn note(&mut self, commit_lsn: Lsn, reason: &str) {
        self.count += 1;
        if self.told_at.is_none_or(|told_at| told_at.elapsed() >= Self::TELL_EVERY) {
            self.told_at = Some(Instant::now());
            warn!(
                %commit_lsn, ignored = self.count,
                "a logical message with prefix {PREFIX} was ignored: {reason}; use walhook.emit and walhook.set_context"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_json_means_the_same() {
        let json = "{\"\u{20ac}\": [\"a\u{1f600}\\n\u{e4}\", 1]}";
        let escaped = escaped(json.as_bytes()).expect("it has characters beyond ASCII");
        assert_eq!(escaped, br#"{"\u20ac": ["a\ud83d\ude00\n\u00e4", 1]}"#);
        let value = |json: &[u8]| serde_json::from_slice::<serde_json::Value>(json).expect("JSON");
        assert_eq!(value(&escaped), value(json.as_bytes()));
        assert_eq!(super::escaped(b"{\"a\": 1}"), None);
    }

    #[test]
    fn what_the_functions_write_is_read() {
        let context = |text: &str| Ok(Message::Context(Some(Bytes::copy_from_slice(text.as_bytes()))));
        let cases = [
            (r#"{"context": {"x-hasura-user-id": "42"}}"#, context(r#"{"x-hasura-user-id": "42"}"#)),
            (r#"{"context":{}}"#, context("{}")),
            (r#"{"context": null}"#, Ok(Message::Context(None))),
        ];
        for (content, expected) in cases {
            assert_eq!(decode(content.as_bytes()), expected, "{content}");
        }
        let digits = "12345678901234567890.12345678901234567890";
        for data in ["null", "[1, {}]", digits, r#""\u0000""#, r#"{"a": {"a": 1}, "b": "\""}"#] {
            for (written, event_type) in [("order.paid", "order.paid"), (r#"\"\u00fc\""#, "\"ü\"")] {
                let content = format!(r#"{{"event": {{"type": "{written}", "data": {data}}}}}"#);
                let expected =
                    Message::Event { event_type: event_type.into(), data: data.as_bytes(), deliver_at: None };
                assert_eq!(decode(content.as_bytes()), Ok(expected), "{content}");
            }
        }
    }

    #[test]
    fn a_time_to_come_is_kept_within_bounds_and_one_that_is_over_means_now() {
        let now = Timestamp(1_536_131_661_601_701);
        let (long_ago, never) = (Timestamp(0), Timestamp(i64::MIN));
        let kept_of = |at: i64, committed_at: Timestamp, now: Timestamp| {
            let content = format!(r#"{{"event": {{"type": "a", "data": null, "deliver_at": {at}}}}}"#);
            match decode(content.as_bytes()).expect("a message").committed(committed_at, now) {
                Ok(Message::Event { deliver_at, .. }) => Ok(deliver_at),
                Ok(other) => panic!("{other:?}"),
                Err(reason) => Err(reason),
            }
        };
        let kept = |at: i64| kept_of(at, now, never);
        assert_eq!(kept(now.0 + 1), Ok(Some(Timestamp(now.0 + 1))));
        assert_eq!(kept_of(now.0 + 1, long_ago, now), Ok(Some(Timestamp(now.0 + 1))));
        assert!(kept_of(now.plus_seconds(LONGEST_WAIT_SEC).0 + 1, long_ago, now).is_err());
        for over in [now.0, now.0 - 1, 0, -1, i64::MIN] {
            assert_eq!(kept(over), Ok(None), "{over}");
        }
        for too_late in [now.plus_seconds(LONGEST_WAIT_SEC).0 + 1, i64::MAX] {
            assert!(kept(too_late).is_err(), "{too_late}");
        }
    }

    #[test]
    fn anything_else_is_refused_without_being_quoted() {
        let long_type = format!(r#"{{"event": {{"type": "{}", "data": 1}}}}"#, "x".repeat(256));
        let long_context = format!(r#"{{"context": {{"a": "{}"}}}}"#, "x".repeat(8192));
        let deep = format!(r#"{{"event": {{"type": {}, "data": 1}}}}"#, "[".repeat(100_000));
        let contents: &[&[u8]] = &[
            b"",
            b"secret",
            b"null",
            b"{}",
            b"[]",
            b"\"secret\"",
            b"\xff\xfe",
            b"{\"context\": {\"a\": \"\xff\"}}",
            br#"{"context": "secret"}"#,
            br#"{"context": [1]}"#,
            br#"{"context": {}"#,
            br#"{"context": {}} {}"#,
            br#"{"secret": {}}"#,
            br#"{"event": {"type": "a"}}"#,
            br#"{"event": {"data": 1}}"#,
            br#"{"event": {"type": "", "data": 1}}"#,
            br#"{"event": {"type": ["secret"], "data": 1}}"#,
            br#"{"event": {"type": "a", "data": 1, "deliver_at": "secret"}}"#,
            br#"{"event": {"type": "a", "data": 1, "deliver_at": 1.5}}"#,
            br#"{"event": {"type": "a", "data": 1, "deliver_at": 99999999999999999999}}"#,
            br#"{"event": {"type": "a", "data": secret}}"#,
            long_type.as_bytes(),
            long_context.as_bytes(),
            deep.as_bytes(),
        ];
        for content in contents {
            let reason = decode(content).expect_err(&String::from_utf8_lossy(content));
            assert!(!reason.contains("secret"), "{reason}");
        }
    }
}
