//! Which triggers a change fires and what each one gets, from hand-made messages. No database.

use serde_json::{Value, json};
use uuid::Uuid;
use walhook::matching::{Change, Matcher, Moment, Watch, Watches};
use walhook::model::{Columns, Event, Lsn, OperationSpec, Operations, Position, TableName, Timestamp};
use walhook::pgoutput::{Column, Identity, Message, Relation, decode};

const TABLE: u32 = 20_000;
/// A value that the statement did not touch and the WAL does not hold.
const UNCHANGED: &str = "\u{0}unchanged";
const NULL: &str = "\u{0}null";

fn column(name: &str, type_id: u32, in_identity: bool) -> Column {
    Column { name: name.into(), type_id, in_identity }
}

/// `id int4` (the key), `name text`, `big text`.
fn relation(identity: Identity) -> Relation {
    let full = identity == Identity::Full;
    // An index on the name is the identity where one is.
    let by_name = identity == Identity::Index;
    let key = !by_name && identity != Identity::Nothing;
    let columns = vec![column("id", 23, key), column("name", 25, full || by_name), column("big", 25, full)];
    Relation { id: TABLE, table: TableName::new("public", "items"), identity, columns }
}

fn tuple(out: &mut Vec<u8>, cells: &[&str]) {
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
fn message(tag: u8, rows: &[(u8, &[&str])]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend_from_slice(&TABLE.to_be_bytes());
    for (mark, cells) in rows {
        out.push(*mark);
        tuple(&mut out, cells);
    }
    out
}

fn insert(new: &[&str]) -> Vec<u8> {
    message(b'I', &[(b'N', new)])
}

fn update(old: Option<(u8, &[&str])>, new: &[&str]) -> Vec<u8> {
    let rows: Vec<(u8, &[&str])> = old.into_iter().chain([(b'N', new)]).collect();
    message(b'U', &rows)
}

fn delete(mark: u8, old: &[&str]) -> Vec<u8> {
    message(b'D', &[(mark, old)])
}

fn only(names: &[&str]) -> Columns {
    Columns::Only(names.iter().map(ToString::to_string).collect())
}

fn spec(columns: Columns, payload: Columns) -> Option<OperationSpec> {
    Some(OperationSpec { columns, payload })
}

fn everything() -> Operations {
    let all = || spec(Columns::All, Columns::All);
    Operations { insert: all(), update: all(), delete: all(), truncate: false }
}

fn watch(operations: Operations) -> Watch {
    Watch {
        relation: TABLE,
        table: TableName::new("public", "items"),
        operations,
        key_columns: vec!["id".to_owned()],
        fire_on_unchanged: false,
        trigger_on_replication: false,
    }
}

fn trigger(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

/// A matcher that knows the table, with these triggers, numbered from 1.
fn matcher(identity: Identity, triggers: &[Operations]) -> Matcher {
    let mut watches = Watches::default();
    for (number, operations) in (1..).zip(triggers) {
        watches.activate(trigger(number), 1, Some(watch(operations.clone())));
    }
    let mut matcher = Matcher::new("7".into(), "default".into(), watches);
    matcher.describe(relation(identity));
    matcher
}

fn moment() -> Moment {
    let position = Position { commit_lsn: Lsn(1000), ordinal: 3 };
    Moment { position, xid: 9, committed_at: Timestamp(1_536_131_661_601_701), replicated: false }
}

fn fire(matcher: &mut Matcher, bytes: &[u8]) -> Vec<Event> {
    fire_at(matcher, bytes, &moment())
}

fn fire_at(matcher: &mut Matcher, bytes: &[u8], moment: &Moment) -> Vec<Event> {
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
fn shown(event: &Event) -> Value {
    let row = |row: &Option<bytes::Bytes>| {
        row.as_ref().map_or(Value::Null, |text| serde_json::from_slice(text).expect("JSON"))
    };
    json!([event.operation.as_str(), row(&event.old), row(&event.new), event.missing.as_deref().unwrap_or_default()])
}

/// One trigger on the table; what a change makes of it.
fn check(identity: Identity, operations: Operations, bytes: &[u8], expected: Value) {
    let found: Vec<Value> = fire(&mut matcher(identity, &[operations]), bytes).iter().map(shown).collect();
    assert_eq!(json!(found), expected, "{identity:?} {}", String::from_utf8_lossy(bytes));
}

#[test]
fn a_full_identity_gives_both_rows_whole() {
    let (old, new) = (["1", "a", "B"], ["1", NULL, "B"]);
    let row = |name: Value| json!({"id": 1, "name": name, "big": "B"});
    let full = Identity::Full;
    check(full, everything(), &insert(&old), json!([["INSERT", null, row(json!("a")), []]]));
    let changed = json!([["UPDATE", row(json!("a")), row(Value::Null), []]]);
    check(full, everything(), &update(Some((b'O', &old)), &new), changed);
    check(full, everything(), &delete(b'O', &old), json!([["DELETE", row(json!("a")), null, []]]));
}

#[test]
fn an_unchanged_big_value_comes_from_the_full_old_row_and_is_no_change() {
    let old = ["1", "a", "B"];
    let bytes = update(Some((b'O', &old)), &["1", "b", UNCHANGED]);
    let (before, after) = (json!({"id": 1, "name": "a", "big": "B"}), json!({"id": 1, "name": "b", "big": "B"}));
    check(Identity::Full, everything(), &bytes, json!([["UPDATE", before, after, []]]));
    let on_big = Operations { update: spec(only(&["big"]), Columns::All), ..Operations::default() };
    check(Identity::Full, on_big, &bytes, json!([]));
    check(Identity::Full, everything(), &update(Some((b'O', &old)), &["1", "a", UNCHANGED]), json!([]));
}

#[test]
fn an_unchanged_big_value_without_a_full_old_row_is_left_out_and_named() {
    let bytes = update(None, &["1", "b", UNCHANGED]);
    let expected = json!([["UPDATE", {"id": 1}, {"id": 1, "name": "b"}, ["big"]]]);
    check(Identity::Default, everything(), &bytes, expected);
    let without = Operations { update: spec(Columns::All, only(&["name"])), ..Operations::default() };
    check(Identity::Default, without, &bytes, json!([["UPDATE", {}, {"name": "b"}, []]]));
}

#[test]
fn the_default_identity_gives_the_key_of_the_old_row_and_never_made_up_nulls() {
    let default = Identity::Default;
    let moved = update(Some((b'K', &["1", NULL, NULL])), &["2", "a", "B"]);
    let new = json!({"id": 2, "name": "a", "big": "B"});
    check(default, everything(), &moved, json!([["UPDATE", {"id": 1}, new, []]]));
    check(default, everything(), &delete(b'K', &["1", NULL, NULL]), json!([["DELETE", {"id": 1}, null, []]]));
    let only_name = Operations { delete: spec(Columns::All, only(&["name"])), ..Operations::default() };
    check(default, only_name, &delete(b'K', &["1", NULL, NULL]), json!([["DELETE", {}, null, []]]));
}

#[test]
fn an_index_as_identity_gives_its_columns() {
    let index = Identity::Index;
    check(index, everything(), &delete(b'K', &[NULL, "a", NULL]), json!([["DELETE", {"name": "a"}, null, []]]));
    let new = json!({"id": 1, "name": "a", "big": "C"});
    check(index, everything(), &update(None, &["1", "a", "C"]), json!([["UPDATE", {"name": "a"}, new, []]]));
}

#[test]
fn an_update_whose_old_row_is_unknown_fires_rather_than_be_lost() {
    let on_name = || Operations { update: spec(only(&["name"]), only(&["id"])), ..Operations::default() };
    check(Identity::Default, on_name(), &update(None, &["1", "a", "B"]), json!([["UPDATE", {"id": 1}, {"id": 1}, []]]));
}

#[test]
fn update_columns_decide_with_null_as_a_value_like_any_other() {
    let on_name = || Operations { update: spec(only(&["name"]), only(&["id"])), ..Operations::default() };
    let fires = json!([["UPDATE", {"id": 1}, {"id": 1}, []]]);
    for (old, new, expected) in [
        (["1", "a", "B"], ["1", "b", "B"], &fires),
        (["1", "a", "B"], ["1", NULL, "B"], &fires),
        (["1", NULL, "B"], ["1", "a", "B"], &fires),
        (["1", NULL, "B"], ["1", "", "B"], &fires),
        (["1", NULL, "B"], ["1", NULL, "C"], &json!([])),
        (["1", "a", "B"], ["1", "a", "C"], &json!([])),
    ] {
        check(Identity::Full, on_name(), &update(Some((b'O', &old)), &new), expected.clone());
    }
}

#[test]
fn an_update_that_changed_nothing_fires_on_request_only() {
    let row = ["1", NULL, "B"];
    let same = update(Some((b'O', &row)), &row);
    let big_untouched = update(Some((b'O', &row)), &["1", NULL, UNCHANGED]);
    let other_column = update(Some((b'O', &row)), &["1", NULL, "C"]);
    let on_name = || Operations { update: spec(only(&["name"]), only(&["id"])), ..Operations::default() };
    for bytes in [same, big_untouched, other_column] {
        check(Identity::Full, on_name(), &bytes, json!([]));
        let mut matcher = matcher(Identity::Full, &[]);
        matcher.activate(trigger(1), 1, Some(Watch { fire_on_unchanged: true, ..watch(on_name()) }));
        let events = fire(&mut matcher, &bytes);
        assert_eq!(shown(&events[0]), json!(["UPDATE", {"id": 1}, {"id": 1}, []]));
        assert_eq!(events.len(), 1);
    }
}

#[test]
fn a_truncate_fires_for_triggers_that_ask_and_has_no_rows() {
    let mut bytes = b"T\0\0\0\x01\0".to_vec();
    bytes.extend_from_slice(&TABLE.to_be_bytes());
    let asks = || Operations { truncate: true, ..everything() };
    check(Identity::Full, everything(), &bytes, json!([]));
    check(Identity::Full, asks(), &bytes, json!([["TRUNCATE", null, null, []]]));
    let alone = Operations { truncate: true, ..Operations::default() };
    check(Identity::Default, alone, &bytes, json!([["TRUNCATE", null, null, []]]));
}

#[test]
fn what_arrived_by_replication_fires_for_triggers_that_ask() {
    let mut matcher = matcher(Identity::Full, &[everything()]);
    matcher.activate(trigger(2), 1, Some(Watch { trigger_on_replication: true, ..watch(everything()) }));
    let row = insert(&["1", "a", "B"]);
    let triggers = |events: Vec<Event>| events.iter().map(|event| event.trigger_id).collect::<Vec<_>>();
    let replicated = Moment { replicated: true, ..moment() };
    assert_eq!(triggers(fire_at(&mut matcher, &row, &replicated)), [trigger(2)]);
    assert_eq!(triggers(fire(&mut matcher, &row)), [trigger(1), trigger(2)]);
}

#[test]
fn a_watch_of_an_earlier_release_reads_with_what_was_then() {
    let stored = r#"{"relation":20000,"table":{"schema":"public","name":"items"},
        "operations":{"insert":{"columns":"*","payload":"*"}},"key_columns":["id"]}"#;
    let insert = spec(Columns::All, Columns::All);
    let expected = watch(Operations { insert, ..Operations::default() });
    assert_eq!(serde_json::from_str::<Watch>(stored).expect("a watch"), expected);
}

#[test]
fn several_triggers_get_each_its_own_columns() {
    let triggers = [
        everything(),
        Operations { insert: spec(Columns::All, only(&["name"])), ..Operations::default() },
        Operations { delete: spec(Columns::All, Columns::All), ..Operations::default() },
        Operations { insert: spec(Columns::All, only(&["big", "id"])), ..Operations::default() },
        Operations { insert: spec(Columns::All, only(&["name"])), ..Operations::default() },
    ];
    let mut matcher = matcher(Identity::Full, &triggers);
    let events = fire(&mut matcher, &insert(&["1", "a", "B"]));
    let found: Vec<(Uuid, Value)> = events.iter().map(|event| (event.trigger_id, shown(event)[2].clone())).collect();
    let expected = [
        (trigger(1), json!({"id": 1, "name": "a", "big": "B"})),
        (trigger(2), json!({"name": "a"})),
        (trigger(4), json!({"id": 1, "big": "B"})),
        (trigger(5), json!({"name": "a"})),
    ];
    assert_eq!(found, expected);
    let again = fire(&mut matcher, &insert(&["1", "a", "B"]));
    let ids = |events: &[Event]| events.iter().map(|event| event.id).collect::<Vec<_>>();
    assert_eq!(ids(&events), ids(&again), "a replay makes the same ids");
    assert!(ids(&events).windows(2).all(|pair| pair[0] != pair[1]), "each trigger's event has its own");
}

#[test]
fn events_of_one_row_stay_in_one_lane() {
    let mut matcher = matcher(Identity::Full, &[everything()]);
    let lane = |matcher: &mut Matcher, bytes: &[u8]| fire(matcher, bytes)[0].lane;
    let mut lanes = std::collections::HashSet::new();
    for id in 0..100 {
        let id = id.to_string();
        let (old, new) = ([id.as_str(), "a", "B"], [id.as_str(), "b", "B"]);
        let inserted = lane(&mut matcher, &insert(&old));
        assert_eq!(lane(&mut matcher, &update(Some((b'O', &old)), &new)), inserted);
        assert_eq!(lane(&mut matcher, &delete(b'O', &new)), inserted);
        lanes.insert(inserted);
    }
    assert!(lanes.len() > 8, "rows spread over the lanes: {lanes:?}");
}

#[test]
fn a_version_takes_effect_where_it_is_activated_and_older_ones_change_nothing() {
    let mut matcher = matcher(Identity::Full, &[]);
    let row = insert(&["1", "a", "B"]);
    assert_eq!(fire(&mut matcher, &row).len(), 0);
    matcher.activate(trigger(1), 2, Some(watch(everything())));
    assert_eq!(fire(&mut matcher, &row).len(), 1);
    // The same and an older one come again when WAL is read again.
    for version in [1, 2] {
        matcher.activate(trigger(1), version, None);
        assert_eq!(fire(&mut matcher, &row).len(), 1, "version {version}");
    }
    matcher.activate(trigger(1), 3, Some(watch(Operations { delete: everything().delete, ..Operations::default() })));
    assert_eq!(fire(&mut matcher, &row).len(), 0);
    matcher.activate(trigger(1), 4, None);
    assert_eq!(fire(&mut matcher, &delete(b'O', &["1", "a", "B"])).len(), 0);
}

#[test]
fn a_table_that_was_not_described_or_is_not_watched_makes_no_event() {
    let mut watches = Watches::default();
    watches.activate(trigger(1), 1, Some(watch(everything())));
    let mut matcher = Matcher::new("7".into(), "default".into(), watches);
    let row = insert(&["1", "a", "B"]);
    assert_eq!(fire(&mut matcher, &row).len(), 0);
    let other = Relation { id: TABLE + 1, ..relation(Identity::Full) };
    matcher.describe(other);
    assert_eq!(fire(&mut matcher, &row).len(), 0);
}

#[test]
fn a_table_that_was_altered_is_described_again() {
    let mut matcher = matcher(Identity::Full, &[everything()]);
    let mut altered = relation(Identity::Full);
    altered.table = TableName::new("shop", "things");
    altered.columns.push(column("extra", 16, true));
    matcher.describe(altered);
    let events = fire(&mut matcher, &insert(&["1", "a", "B", "t"]));
    assert_eq!(shown(&events[0])[2], json!({"id": 1, "name": "a", "big": "B", "extra": true}));
    assert_eq!(*events[0].table, TableName::new("shop", "things"));
}
