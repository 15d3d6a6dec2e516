//! What is made of old rows that the WAL holds in part, from hand-made messages. No database.

mod support;

use serde_json::{Value, json};
use support::messages::*;
use walhook::matching::Matcher;
use walhook::model::{Columns, Operations};
use walhook::pgoutput::{Identity, Relation};

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
fn an_update_that_the_wal_cannot_decide_fires_and_says_so() {
    let on = |columns: &[&str]| Operations { update: spec(only(columns), Columns::All), ..Operations::default() };
    let kept = || update(None, &["1", "a", "B"]);
    let moved = || update(Some((b'K', &["1", NULL, NULL])), &["2", "a", "B"]);
    let partial = json!([{"id": 1}, true, true]);
    let sure = json!([{"id": 1}, true, false]);
    for (columns, bytes, expected) in [
        (vec!["name"], kept(), Some(&partial)),
        (vec!["id", "name"], kept(), Some(&partial)),
        // No old row means that the key is the same.
        (vec!["id"], kept(), None),
        (vec!["id"], moved(), Some(&sure)),
        (vec!["id", "name"], moved(), Some(&sure)),
        (vec!["name"], moved(), Some(&partial)),
    ] {
        let events = fire(&mut matcher(Identity::Default, &[on(&columns)]), &bytes);
        assert_eq!(events.first().map(told).as_ref(), expected, "{columns:?}");
    }
    let on_key = Operations { update: spec(only(&["id"]), only(&["id"])), ..Operations::default() };
    let events = fire(&mut matcher(Identity::Default, &[on_key]), &moved());
    assert_eq!(told(&events[0]), json!([{"id": 1}, false, false]), "nothing of the payload is missing in old");
    let events = fire(&mut matcher(Identity::Full, &[everything()]), &delete(b'O', &["1", NULL, NULL]));
    assert_eq!(told(&events[0]), json!([{"id": 1, "name": null, "big": null}, false, false]));
}

/// The stream describes a root and then the partition that the next change is of, which names only the root.
fn describe_partition(matcher: &mut Matcher, number: u32, identity: Identity) {
    matcher.describe(relation(Identity::Full));
    matcher.describe(Relation { id: TABLE + number, ..relation(identity) });
}

#[test]
fn a_partition_with_less_identity_than_its_root_never_makes_up_nulls() {
    let mut matcher = matcher(Identity::Full, &[everything()]);
    let one = |matcher: &mut Matcher, bytes: &[u8]| {
        let events = fire(matcher, bytes);
        events.first().map(|event| json!([shown(event), event.old_partial, event.undecided]))
    };
    let (whole, key) = (["1", "a", "B"], ["1", NULL, NULL]);
    describe_partition(&mut matcher, 1, Identity::Default);
    let deleted = json!([["DELETE", {"id": 1}, null, []], true, false]);
    assert_eq!(one(&mut matcher, &delete(b'O', &key)), Some(deleted));
    // The root's identity says that there is always an old row; the partition's key did not change.
    let updated = json!([["UPDATE", {"id": 1}, {"id": 1, "name": "b"}, ["big"]], true, true]);
    assert_eq!(one(&mut matcher, &update(None, &["1", "b", UNCHANGED])), Some(updated));
    let moved = json!([["UPDATE", {"id": 1}, {"id": 2, "name": "b"}, ["big"]], true, false]);
    assert_eq!(one(&mut matcher, &update(Some((b'O', &key)), &["2", "b", UNCHANGED])), Some(moved));
    // Rows of the other partitions are still read whole.
    describe_partition(&mut matcher, 2, Identity::Full);
    let row = json!({"id": 1, "name": "a", "big": "B"});
    let deleted = json!([["DELETE", row, null, []], false, false]);
    assert_eq!(one(&mut matcher, &delete(b'O', &whole)), Some(deleted));
    // Once every partition has a full identity, nulls are values again.
    describe_partition(&mut matcher, 1, Identity::Full);
    let deleted = json!([["DELETE", {"id": 1, "name": null, "big": null}, null, []], false, false]);
    assert_eq!(one(&mut matcher, &delete(b'O', &key)), Some(deleted));
}

#[test]
fn tables_that_are_truncated_together_are_not_taken_for_a_root_and_its_partition() {
    let mut matcher = matcher(Identity::Full, &[everything()]);
    describe_partition(&mut matcher, 1, Identity::Default);
    matcher.pass(None);
    let events = fire(&mut matcher, &delete(b'O', &["1", NULL, NULL]));
    assert_eq!(told(&events[0]), json!([{"id": 1, "name": null, "big": null}, false, false]));
    // A partition whose change is passed over is known all the same.
    describe_partition(&mut matcher, 1, Identity::Default);
    matcher.pass(Some(TABLE));
    let events = fire(&mut matcher, &delete(b'O', &["1", NULL, NULL]));
    assert_eq!(told(&events[0]), json!([{"id": 1}, true, false]));
}

#[test]
fn a_named_column_that_is_gone_leaves_every_other_change_undecided() {
    let on = |columns: &[&str]| Operations { update: spec(only(columns), only(&["id", "was"])), ..everything() };
    let mut matcher = matcher(Identity::Full, &[on(&["was", "name"])]);
    let mut one = |old: &[&str], new: &[&str]| {
        let events = fire(&mut matcher, &update(Some((b'O', old)), new));
        events.first().map(|event| json!([shown(event)[2], event.undecided]))
    };
    assert_eq!(one(&["1", "a", "B"], &["1", "b", "B"]), Some(json!([{"id": 1}, false])), "a column that is there");
    assert_eq!(one(&["1", "a", "B"], &["1", "a", "C"]), Some(json!([{"id": 1}, true])), "perhaps it was renamed");
    assert_eq!(one(&["1", "a", "B"], &["1", "a", UNCHANGED]), None, "nothing changed at all");
}

#[test]
fn a_delete_has_its_rows_lane_also_where_the_wal_does_not_hold_the_primary_key() {
    let mut matcher = matcher(Identity::Index, &[everything()]);
    let mut lanes = std::collections::HashSet::new();
    for name in 0..40 {
        let name = name.to_string();
        let mut lane = |bytes: &[u8]| fire(&mut matcher, bytes)[0].lane;
        let inserted = lane(&insert(&["1", &name, "B"]));
        assert_eq!(lane(&update(None, &["2", &name, "B"])), inserted);
        assert_eq!(lane(&delete(b'K', &[NULL, &name, NULL])), inserted);
        lanes.insert(inserted);
    }
    assert!(lanes.len() > 8, "rows spread over the lanes: {lanes:?}");
}
