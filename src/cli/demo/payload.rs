//! Reads a webhook's body as its receiver would: from the wire, knowing nothing of walhook's own types.

use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// Longer descriptions are cut.
const DETAIL_WIDTH: usize = 48;

/// One request that came in.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub event_id: String,
    pub trigger: String,
    pub operation: String,
    pub table: String,
    pub current_retry: u64,
    pub max_retries: u64,
    /// What the receiver answered.
    pub status: u16,
    /// The row in a few words.
    pub detail: String,
    pub committed_at: DateTime<Utc>,
    pub arrived_at: DateTime<Utc>,
}

impl Arrival {
    /// Reads Hasura's event payload; the status is the receiver's to decide.
    pub fn read(body: &[u8], arrived_at: DateTime<Utc>) -> anyhow::Result<Arrival> {
        let payload: Value = serde_json::from_slice(body).context("a webhook's body is not JSON")?;
        let text = |pointer: &str| {
            let value = payload.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
            value.with_context(|| format!("a webhook's body has no text at {pointer}"))
        };
        let number = |pointer: &str| payload.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        let created_at = text("/created_at")?;
        let committed_at = DateTime::parse_from_rfc3339(&created_at)
            .with_context(|| format!("created_at is no RFC 3339 time: {created_at}"))?;
        let body: Body = serde_json::from_slice(body).context("a webhook's body has no event.data with old and new")?;
        Ok(Arrival {
            event_id: text("/id")?,
            trigger: text("/trigger/name")?,
            operation: text("/event/op")?,
            table: format!("{}.{}", text("/table/schema")?, text("/table/name")?),
            current_retry: number("/delivery_info/current_retry"),
            max_retries: number("/delivery_info/max_retries"),
            status: 0,
            detail: describe(&row(body.event.data.old), &row(body.event.data.new)),
            committed_at: committed_at.to_utc(),
            arrived_at,
        })
    }

    /// From the commit to the request's last byte; both clocks are this machine's.
    pub fn latency(&self) -> Duration {
        (self.arrived_at - self.committed_at).to_std().unwrap_or_default()
    }

    /// Whether the receiver accepted it.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

#[derive(Deserialize)]
struct Body {
    event: Event,
}

#[derive(Deserialize)]
struct Event {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    old: Option<Box<RawValue>>,
    new: Option<Box<RawValue>>,
}

/// A row's columns in the order in which they were sent, which [`Value`] does not keep.
#[derive(Debug, Default)]
struct Row(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Row, D::Error> {
        struct Columns;
        impl<'de> Visitor<'de> for Columns {
            type Value = Row;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a row")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let mut row = Row::default();
                while let Some(column) = map.next_entry()? {
                    row.0.push(column);
                }
                Ok(row)
            }
        }
        deserializer.deserialize_map(Columns)
    }
}

/// `None` also for what is no object: an invoked event may carry any JSON.
fn row(data: Option<Box<RawValue>>) -> Option<Row> {
    serde_json::from_str(data?.get()).ok()
}

/// An update's changed columns, else the row's values.
fn describe(old: &Option<Row>, new: &Option<Row>) -> String {
    let parts: Vec<String> = match (old, new) {
        (Some(old), Some(new)) => {
            let pairs = old.0.iter().zip(&new.0).filter(|(before, after)| before != after);
            pairs.map(|((name, before), (_, after))| format!("{name}: {} → {}", plain(before), plain(after))).collect()
        }
        (Some(row), None) | (None, Some(row)) => row.0.iter().map(|(_, value)| plain(value)).collect(),
        (None, None) => Vec::new(),
    };
    cut(&parts.join(", "), DETAIL_WIDTH)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body() -> Value {
        json!({
            "id": "85558393-c75d-4d2f-9c15-e80591b83894",
            "created_at": "2018-09-05T07:14:21.601701Z",
            "trigger": {"name": "test_trigger", "id": "37b7f91a-b3a5-4b85-be59-e5920d72f6aa"},
            "table": {"schema": "public", "name": "users"},
            "delivery_info": {"current_retry": 1, "max_retries": 3},
            "event": {"op": "INSERT", "data": {"old": null, "new": {"id": 42, "name": "john doe"}}}
        })
    }

    #[test]
    fn a_payload_is_read_with_its_latency() {
        let arrived_at = "2018-09-05T07:14:21.604201Z".parse().expect("a time");
        let arrival = Arrival::read(body().to_string().as_bytes(), arrived_at).expect("an arrival");
        assert_eq!(arrival.table, "public.users");
        assert_eq!(arrival.detail, "42, john doe");
        assert_eq!((arrival.current_retry, arrival.max_retries), (1, 3));
        assert_eq!(arrival.latency(), Duration::from_micros(2500));
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut body = body();
        body["trigger"] = json!({});
        let error = Arrival::read(body.to_string().as_bytes(), Utc::now()).expect_err("no trigger name");
        assert_eq!(error.to_string(), "a webhook's body has no text at /trigger/name");
    }

    #[test]
    fn an_update_is_described_by_what_changed() {
        let row = |text: &str| -> Option<Row> { serde_json::from_str(text).expect("a row") };
        let (old, new) = (row(r#"{"status": "new", "id": 1}"#), row(r#"{"status": "shipped", "id": 1}"#));
        assert_eq!(describe(&old, &new), "status: new → shipped");
        assert_eq!(describe(&old, &None), "new, 1");
        assert_eq!(cut("äöüäöü", 4), "äöü…");
    }
}
