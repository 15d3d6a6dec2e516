//! Which triggers a change fires and what each one gets, from hand-made messages. No database.

mod support;

use serde_json::{Value, json};
use support::messages::*;
use uuid::Uuid;
use walhook::matching::{Matcher, Moment, TableWatch, TypeWatch, Watch, Watches};
use walhook::model::{Columns, Event, Operations, Ordering, Subject, TableName};
use walhook::pgoutput::{Identity, Relation, Types};

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
        matcher.activate(
            trigger(1),
            1,
            Some(Watch::Table(TableWatch { fire_on_unchanged: true, ..table_watch(on_name()) })),
        );
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
    let ask = TableWatch { trigger_on_replication: true, ..table_watch(everything()) };
    matcher.activate(trigger(2), 1, Some(Watch::Table(ask)));
    let row = insert(&["1", "a", "B"]);
    let triggers = |events: Vec<Event>| events.iter().map(|event| event.trigger_id).collect::<Vec<_>>();
    let replicated = Moment { replicated: true, ..moment() };
    assert_eq!(triggers(fire_at(&mut matcher, &row, &replicated)), [trigger(2)]);
    assert_eq!(triggers(fire(&mut matcher, &row)), [trigger(1), trigger(2)]);
}

#[test]
fn a_custom_event_fires_the_triggers_on_its_type_only() {
    let mut matcher = matcher(Identity::Full, &[everything()]);
    let watch = |name: &str| Some(Watch::Type(TypeWatch { event_type: name.into() }));
    for (number, name) in [(4, "order.paid"), (2, "order.paid"), (3, "order.sent")] {
        matcher.activate(trigger(number), 1, watch(name));
    }
    let context = bytes::Bytes::from_static(br#"{"x-hasura-user-id":"42"}"#);
    let moment = Moment { replicated: true, session_variables: Some(context.clone()), ..moment() };
    let emit = |matcher: &Matcher, name: &str| {
        let mut events = Vec::new();
        matcher.emit(name, b"[1.50]", None, &moment, &mut events);
        events
    };
    let events = emit(&matcher, "order.paid");
    assert_eq!(events.iter().map(|event| event.trigger_id).collect::<Vec<_>>(), [trigger(2), trigger(4)]);
    for event in &events {
        assert_eq!(shown(event), json!(["CUSTOM", null, [1.50], []]));
        assert_eq!(event.session_variables.as_ref(), Some(&context));
        assert_eq!(*event.subject, Subject::Type("order.paid".into()));
    }
    assert_ne!(events[0].id, events[1].id);
    assert_eq!(emit(&matcher, "order.lost").len(), 0);
    matcher.activate(trigger(2), 2, None);
    matcher.activate(trigger(4), 2, watch("order.lost"));
    assert_eq!(emit(&matcher, "order.paid").len(), 0);
    assert_eq!(emit(&matcher, "order.lost").len(), 1);
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
fn events_of_one_row_are_known_by_it_and_a_new_key_counts_after_the_event_that_gives_it() {
    let mut matcher = matcher(Identity::Full, &[everything()]);
    let row = |matcher: &mut Matcher, bytes: &[u8]| fire(matcher, bytes)[0].row_hash;
    let (one, two) = (["1", "a", "B"], ["2", "a", "B"]);
    let inserted = row(&mut matcher, &insert(&one));
    assert!(inserted.is_some());
    assert_eq!(row(&mut matcher, &update(Some((b'O', &one)), &["1", "b", "B"])), inserted);
    assert_eq!(row(&mut matcher, &update(Some((b'O', &one)), &two)), inserted);
    assert_eq!(row(&mut matcher, &delete(b'O', &one)), inserted);
    assert_ne!(row(&mut matcher, &delete(b'O', &two)), inserted);
}

#[test]
fn rows_without_a_key_are_nobodys_and_a_strict_trigger_has_one_lane() {
    let keyless = TableWatch { key_columns: Vec::new(), ..table_watch(everything()) };
    let strict = TableWatch { ordering: Ordering::Trigger, ..table_watch(everything()) };
    let mut watches = Watches::default();
    watches.activate(trigger(1), 1, Some(Watch::Table(keyless)));
    watches.activate(trigger(2), 1, Some(Watch::Table(strict)));
    let mut matcher = Matcher::new("1".into(), "default".into(), watches, Types::default());
    matcher.describe(relation(Identity::Full));
    let mut seen = [std::collections::HashSet::new(), std::collections::HashSet::new()];
    for id in 0..50 {
        for event in fire(&mut matcher, &insert(&[&id.to_string(), "a", "B"])) {
            let place = usize::from(event.trigger_id == trigger(2));
            assert_eq!(event.row_hash.is_some(), place == 1, "{event:?}");
            seen[place].insert(event.lane);
        }
    }
    assert_eq!(seen.map(|lanes| lanes.len()), [1, 1]);
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
    let mut matcher = Matcher::new("7".into(), "default".into(), watches, Types::default());
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
    assert_eq!(*events[0].subject, Subject::Table(TableName::new("shop", "things")));
}
