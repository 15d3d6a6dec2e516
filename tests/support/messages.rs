//! Messages of the stream made by hand, and what a matcher makes of them.

use serde_json::{Value, json};
use uuid::Uuid;
use walhook::matching::{Change, Matcher, Moment, TableWatch, Watch, Watches};
use walhook::model::{Columns, Event, Lsn, OperationSpec, Operations, Ordering, Position, TableName, Timestamp};
use walhook::pgoutput::{Column, Identity, Message, Relation, Types, decode};

pub const TABLE: u32 = 20_000;
/// A value that the statement did not touch and the WAL does not hold.
pub const UNCHANGED: &str = "\u{0}unchanged";
pub const NULL: &str = "\u{0}null";

pub fn column(name: &str, type_id: u32, in_identity: bool) -> Column {
    Column { name: name.into(), type_id, in_identity }
}

/// `id int4` (the key), `name text`, `big text`.
pub fn relation(identity: Identity) -> Relation {
    let full = identity == Identity::Full;
    // An index on the name is the identity where one is.
    let by_name = identity == Identity::Index;
    let key = !by_name && identity != Identity::Nothing;
    let columns = vec![column("id", 23, key), column("name", 25, full || by_name), column("big", 25, full)];
    Relation { id: TABLE, table: TableName::new("public", "items"), identity, columns }
}

pub fn tuple(out: &mut Vec<u8>, cells: &[&str]) {
    out.extend_from_slice(&u16::try_from(cells.len()).expect("few").to_be_bytes());
    for cell in cells {
        match *cell {
            NULL => out.push(b'n'),
            UNCHANGED => out.push(b'u'),
            text => {
                out.push(b't');
                out.extend_from_slice(&u32::try_from(text.len()).expect("short").to_be_bytes());
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
}

/// The bytes of a message: a tag, then rows with the marks that say what they are.
pub fn message(tag: u8, rows: &[(u8, &[&str])]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend_from_slice(&TABLE.to_be_bytes());
    for (mark, cells) in rows {
        out.push(*mark);
        tuple(&mut out, cells);
    }
    out
}

pub fn insert(new: &[&str]) -> Vec<u8> {
    message(b'I', &[(b'N', new)])
}

pub fn update(old: Option<(u8, &[&str])>, new: &[&str]) -> Vec<u8> {
    let rows: Vec<(u8, &[&str])> = old.into_iter().chain([(b'N', new)]).collect();
    message(b'U', &rows)
}

pub fn delete(mark: u8, old: &[&str]) -> Vec<u8> {
    message(b'D', &[(mark, old)])
}

pub fn only(names: &[&str]) -> Columns {
    Columns::Only(names.iter().map(ToString::to_string).collect())
}

pub fn spec(columns: Columns, payload: Columns) -> Option<OperationSpec> {
    Some(OperationSpec { columns, payload })
}

pub fn everything() -> Operations {
    let all = || spec(Columns::All, Columns::All);
    Operations { insert: all(), update: all(), delete: all(), truncate: false }
}

pub fn watch(operations: Operations) -> Watch {
    Watch::Table(table_watch(operations))
}

pub fn table_watch(operations: Operations) -> TableWatch {
    TableWatch {
        relation: TABLE,
        table: TableName::new("public", "items"),
        operations,
        key_columns: vec!["id".to_owned()],
        fire_on_unchanged: false,
        trigger_on_replication: false,
        ordering: Ordering::default(),
    }
}

pub fn trigger(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// A matcher that knows the table, with these triggers, numbered from 1.
pub fn matcher(identity: Identity, triggers: &[Operations]) -> Matcher {
    let mut watches = Watches::default();
    for (number, operations) in (1..).zip(triggers) {
        watches.activate(trigger(number), 1, Some(watch(operations.clone())));
    }
    let mut matcher = Matcher::new("7".into(), "default".into(), watches, Types::default());
    matcher.describe(relation(identity));
    matcher
}

pub fn moment() -> Moment {
    let position = Position { commit_lsn: Lsn(1000), ordinal: 3 };
    Moment {
        position,
        xid: 9,
        committed_at: Timestamp(1_536_131_661_601_701),
        replicated: false,
        session_variables: None,
    }
}

pub fn fire(matcher: &mut Matcher, bytes: &[u8]) -> Vec<Event> {
    fire_at(matcher, bytes, &moment())
}

pub fn fire_at(matcher: &mut Matcher, bytes: &[u8], moment: &Moment) -> Vec<Event> {
    let change = match decode(bytes).expect("a message") {
        Message::Insert { new, .. } => Change::Insert(new),
        Message::Update { old, new, .. } => Change::Update(old, new),
        Message::Delete { old, .. } => Change::Delete(old),
        Message::Truncate(_) => Change::Truncate,
        other => panic!("no change: {other:?}"),
    };
    let mut events = Vec::new();
    matcher.fire(TABLE, change, moment, &mut events);
    events
}

/// `[operation, old, new, missing]`
pub fn shown(event: &Event) -> Value {
    let row = |row: &Option<bytes::Bytes>| {
        row.as_ref().map_or(Value::Null, |text| serde_json::from_slice(text).expect("JSON"))
    };
    json!([event.operation.as_str(), row(&event.old), row(&event.new), event.missing.as_deref().unwrap_or_default()])
}

/// `[old, old_partial, undecided]`
pub fn told(event: &Event) -> Value {
    json!([shown(event)[1], event.old_partial, event.undecided])
}

/// One trigger on the table; what a change makes of it.
pub fn check(identity: Identity, operations: Operations, bytes: &[u8], expected: Value) {
    let found: Vec<Value> = fire(&mut matcher(identity, &[operations]), bytes).iter().map(shown).collect();
    assert_eq!(json!(found), expected, "{identity:?} {}", String::from_utf8_lossy(bytes));
}
