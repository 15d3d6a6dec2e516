//! The body of a webhook request (reference/hasura.md section 2.1, and seed 004 for `trigger.id` and `created_at`).

use std::io::Write;

use bytes::Bytes;

use super::Endpoint;
use crate::model::{Event, Operation, Position, Subject};
use crate::pgoutput::write_string;

/// Bytes of a body beside its rows, about.
const FRAME: usize = 512;

/// Writes the body for one attempt. The row text goes in as it is.
pub fn body(endpoint: &Endpoint, event: &Event, current_retry: u32) -> Bytes {
    let mut out = Vec::with_capacity(event.size() + FRAME);
    write(&mut out, endpoint, event, current_retry);
    Bytes::from(out)
}

/// The same, behind what is there already.
pub(super) fn write(out: &mut Vec<u8>, endpoint: &Endpoint, event: &Event, current_retry: u32) {
    let mut raw = |text: &str| out.extend_from_slice(text.as_bytes());
    raw("{\"id\":\"");
    raw(event.id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()));
    raw("\",\"created_at\":\"");
    print(out, format_args!("{}", event.committed_at));
    out.extend_from_slice(b"\",\"trigger\":{\"name\":");
    write_string(out, endpoint.name.as_bytes());
    out.extend_from_slice(b",\"id\":\"");
    out.extend_from_slice(endpoint.trigger_id.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()).as_bytes());
    out.extend_from_slice(b"\"},\"table\":");
    match &*event.subject {
        Subject::Table(table) => {
            out.extend_from_slice(b"{\"schema\":");
            write_string(out, table.schema.as_bytes());
            out.extend_from_slice(b",\"name\":");
            write_string(out, table.name.as_bytes());
            out.push(b'}');
        }
        Subject::Type(name) => {
            out.extend_from_slice(b"null,\"type\":");
            write_string(out, name.as_bytes());
        }
    }
    let max_retries = endpoint.retry_conf.num_retries;
    print(out, format_args!(",\"delivery_info\":{{\"current_retry\":{current_retry},\"max_retries\":{max_retries}}}"));
    out.extend_from_slice(b",\"event\":{\"op\":\"");
    out.extend_from_slice(event.operation.as_str().as_bytes());
    out.extend_from_slice(b"\",\"data\":{\"old\":");
    out.extend_from_slice(event.old.as_deref().unwrap_or(b"null"));
    out.extend_from_slice(b",\"new\":");
    out.extend_from_slice(event.new.as_deref().unwrap_or(b"null"));
    // Rows written past any API have no session unless the writer gave one; Hasura sends null for those as well.
    out.extend_from_slice(b"},\"session_variables\":");
    out.extend_from_slice(event.session_variables.as_deref().unwrap_or(b"null"));
    out.extend_from_slice(b",\"trace_context\":null");
    if let Some(id) = event.backfill_id {
        print(out, format_args!(",\"backfill\":\"{id}\""));
    }
    if let Some(at) = event.deliver_at {
        print(out, format_args!(",\"deliver_at\":\"{at}\""));
    }
    if endpoint.transaction {
        out.extend_from_slice(b",\"transaction\":");
        write_transaction(out, event);
    }
    out.extend_from_slice(b"}}");
}

/// Where the change stands in the source's history; null for an event that no transaction of the source made.
fn write_transaction(out: &mut Vec<u8>, event: &Event) {
    if event.operation == Operation::Manual {
        return out.extend_from_slice(b"null");
    }
    let Position { commit_lsn, ordinal } = event.position;
    let (xid, committed_at) = (event.xid, event.committed_at);
    print(
        out,
        format_args!(
            r#"{{"xid":{xid},"commit_lsn":"{commit_lsn}","ordinal":{ordinal},"committed_at":"{committed_at}"}}"#
        ),
    );
}

/// Without a string of its own for each.
fn print(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("memory takes everything");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::model::{Lsn, RetryConf, TableName, Timestamp};

    fn endpoint() -> Endpoint {
        let retry_conf = RetryConf { num_retries: 3, ..Default::default() };
        Endpoint { name: "test_\"trigger\"".into(), retry_conf, ..Endpoint::example() }
    }

    fn event() -> Event {
        let subject = Arc::new(Subject::Table(TableName::new("public", "users")));
        let new = Some(Bytes::from_static(b"{\"id\":42,\"name\":\"john doe\"}"));
        Event { subject, position: Position { commit_lsn: Lsn(1), ordinal: 1 }, new, ..Event::example(9) }
    }

    fn read(endpoint: &Endpoint, event: &Event) -> Value {
        serde_json::from_slice(&body(endpoint, event, 1)).expect("JSON")
    }

    #[test]
    fn the_body_is_hasuras_with_the_trigger_id_of_the_seed() {
        let read = read(&endpoint(), &event());
        let expected = json!({
            "id": "00000000-0000-0000-0000-000000000009",
            "created_at": "2018-09-05T07:14:21.601701Z",
            "trigger": {"name": "test_\"trigger\"", "id": "00000000-0000-0000-0000-000000000007"},
            "table": {"schema": "public", "name": "users"},
            "delivery_info": {"current_retry": 1, "max_retries": 3},
            "event": {
                "op": "INSERT",
                "data": {"old": null, "new": {"id": 42, "name": "john doe"}},
                "session_variables": null,
                "trace_context": null
            }
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn a_custom_event_names_its_type_in_the_place_of_a_table() {
        let event = Event {
            operation: Operation::Custom,
            subject: Arc::new(Subject::Type("order \"paid\"".into())),
            session_variables: Some(Bytes::from_static(br#"{"x-hasura-user-id": "42"}"#)),
            ..event()
        };
        let read = read(&endpoint(), &event);
        assert_eq!((&read["table"], &read["type"]), (&Value::Null, &json!("order \"paid\"")));
        let expected = json!({
            "op": "CUSTOM",
            "data": {"old": null, "new": {"id": 42, "name": "john doe"}},
            "session_variables": {"x-hasura-user-id": "42"},
            "trace_context": null
        });
        assert_eq!(read["event"], expected);
    }

    #[test]
    fn a_row_of_a_backfill_says_so_and_no_other() {
        let id = Uuid::from_u128(9);
        let event = Event { backfill_id: Some(id), ..event() };
        assert_eq!(read(&endpoint(), &event)["event"]["backfill"], json!(id.to_string()));
        assert_eq!(read(&endpoint(), &self::event())["event"].get("backfill"), None);
    }

    #[test]
    fn an_event_for_a_later_time_names_it() {
        let event = Event { deliver_at: Some(Timestamp(1_536_131_661_601_702)), ..event() };
        assert_eq!(read(&endpoint(), &event)["event"]["deliver_at"], json!("2018-09-05T07:14:21.601702Z"));
        assert_eq!(read(&endpoint(), &self::event())["event"].get("deliver_at"), None);
    }

    #[test]
    fn the_transaction_is_named_on_request() {
        let endpoint = Endpoint { transaction: true, ..endpoint() };
        let expected = json!({
            "xid": 1, "commit_lsn": "0/1", "ordinal": 1, "committed_at": "2018-09-05T07:14:21.601701Z"
        });
        assert_eq!(read(&endpoint, &event())["event"]["transaction"], expected);
        let manual = read(&endpoint, &Event { operation: Operation::Manual, ..event() });
        assert_eq!(manual["event"].get("transaction"), Some(&Value::Null));
    }
}
