//! Every way in which a transaction can write: exactly what was committed becomes exactly one event each, in order.

mod support;

use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use serde_json::{Value, json};
use support::cluster::TestDatabase;
use support::receiver::{Answer, Request, Script};
use support::scene::{DEADLINE, Scene};
use support::wait::eventually;
use support::walhook::Start;
use walhook::postgres::cluster::{Cluster, Options};

const ITEMS: &str = "create table items (id int primary key, name text)";

async fn items() -> Scene {
    let scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({})).await;
    scene
}

/// Rows that were inserted, as the log has them.
fn inserted(rows: &[(i64, &str)]) -> Vec<Value> {
    rows.iter().map(|(id, name)| json!(["items", "INSERT", null, {"id": id, "name": name}])).collect()
}

/// Statements on `items`, and what the log has of them.
async fn check(statements: &str, expected: Value) {
    let scene = items().await;
    scene.execute(statements).await;
    assert_eq!(json!(scene.log().await), expected, "{statements}");
    let wanted = expected.as_array().expect("a list").len();
    assert_eq!(scene.arrivals("/t", wanted).await.len(), wanted);
}

#[tokio::test]
async fn what_was_rolled_back_to_a_savepoint_makes_no_event() {
    let statements = "
        begin;
        insert into items values (1, 'kept');
        savepoint a;
            insert into items values (2, 'gone');
            savepoint b; update items set name = 'gone'; release savepoint b;
        rollback to savepoint a;
            insert into items values (2, 'again');
            savepoint a; insert into items values (3, 'gone'); truncate items; rollback to savepoint a;
            savepoint c; update items set name = 'updated' where id = 1; release savepoint c;
        release savepoint a;
        delete from items where id = 2;
        commit;
        begin; savepoint a; insert into items values (9, 'gone'); release savepoint a; rollback";
    let row = |id: i64, name: &str| json!({"id": id, "name": name});
    let expected = json!([
        ["items", "INSERT", null, row(1, "kept")],
        ["items", "INSERT", null, row(2, "again")],
        ["items", "UPDATE", row(1, "kept"), row(1, "updated")],
        ["items", "DELETE", row(2, "again"), null],
    ]);
    check(statements, expected).await;
}

#[tokio::test]
async fn on_conflict_makes_an_insert_or_an_update_or_nothing() {
    let statements = "
        insert into items values (1, 'a'), (2, 'b');
        insert into items values (1, 'x'), (3, 'c'), (3, 'y') on conflict do nothing;
        insert into items values (2, 'B'), (4, 'd') on conflict (id) do update set name = excluded.name;
        insert into items values (1, 'z') on conflict (id) do update set name = excluded.name where items.name = 'q';
        insert into items values (1, 'a') on conflict (id) do update set name = excluded.name";
    let mut expected = inserted(&[(1, "a"), (2, "b"), (3, "c")]);
    expected.push(json!(["items", "UPDATE", {"id": 2, "name": "b"}, {"id": 2, "name": "B"}]));
    expected.extend(inserted(&[(4, "d")]));
    check(statements, json!(expected)).await;
}

#[tokio::test]
async fn merge_makes_each_of_its_changes() {
    if support::cluster::version().await < 15 {
        return;
    }
    let statements = "
        insert into items values (1, 'a'), (2, 'b'), (3, 'c');
        merge into items using (values (1, 'A'), (2, null), (3, 'c'), (4, 'd'), (5, null)) wanted (id, name)
        on items.id = wanted.id
        when matched and wanted.name is null then delete
        when matched and wanted.name = items.name then do nothing
        when matched then update set name = wanted.name
        when not matched and wanted.name is not null then insert values (wanted.id, wanted.name)";
    let mut expected = inserted(&[(1, "a"), (2, "b"), (3, "c")]);
    expected.push(json!(["items", "UPDATE", {"id": 1, "name": "a"}, {"id": 1, "name": "A"}]));
    expected.push(json!(["items", "DELETE", {"id": 2, "name": "b"}, null]));
    expected.extend(inserted(&[(4, "d")]));
    check(statements, json!(expected)).await;
}

async fn copy(scene: &Scene, rows: std::ops::RangeInclusive<i64>, last: &str) -> bool {
    let sink = scene.sql.copy_in::<_, Bytes>("copy items from stdin").await.expect("a copy");
    let mut sink = std::pin::pin!(sink);
    let lines: String = rows.map(|id| format!("{id}\tn{id}\n")).collect();
    sink.send(Bytes::from(lines + last)).await.expect("the rows");
    sink.finish().await.is_ok()
}

#[tokio::test]
async fn copy_makes_an_event_for_each_of_its_rows_or_none() {
    const ROWS: i64 = 5000;
    let scene = items().await;
    assert!(copy(&scene, 1..=ROWS, "").await);
    assert!(!copy(&scene, ROWS + 1..=ROWS + 100, "1\ta key that is there\n").await);
    scene.execute("begin").await;
    assert!(copy(&scene, ROWS + 1..=ROWS + 100, "").await);
    scene.execute("rollback").await;
    let names: Vec<String> = (1..=ROWS).map(|id| format!("n{id}")).collect();
    let rows: Vec<(i64, &str)> = (1..=ROWS).zip(names.iter().map(String::as_str)).collect();
    assert!(scene.log().await == inserted(&rows), "not each row once and in order");
}

#[tokio::test]
async fn cascades_and_the_tables_own_triggers_make_events_as_they_happen() {
    let ddl = "
        create table parent (id int primary key);
        create table child (id int primary key,
                            parent int default 0 references parent on delete cascade on update cascade);
        create table loose (id int primary key, parent int references parent on delete set null);
        create table audit (id int generated always as identity, what text);
        create function note() returns trigger language plpgsql as
            'begin insert into audit (what) values (tg_op); return null; end';
        create trigger note after delete on child for each row execute function note();
        create function upper_id() returns trigger language plpgsql as
            'begin new.id := new.id * 10; return new; end';
        create trigger upper before insert on loose for each row execute function upper_id()";
    let scene = Scene::start(ddl).await;
    for table in ["parent", "child", "loose", "audit"] {
        scene.create(table, table, &format!("/{table}"), json!({})).await;
    }
    scene.execute("insert into parent values (1), (2); insert into child values (1, 1), (2, 2)").await;
    scene.execute("insert into loose values (1, 2); update parent set id = 3 where id = 1").await;
    scene.execute("delete from parent where id = 3; delete from parent where id = 2").await;
    let child = |id: i64, parent: i64| json!({"id": id, "parent": parent});
    let expected = json!([
        ["parent", "INSERT", null, {"id": 1}],
        ["parent", "INSERT", null, {"id": 2}],
        ["child", "INSERT", null, child(1, 1)],
        ["child", "INSERT", null, child(2, 2)],
        ["loose", "INSERT", null, child(10, 2)],
        ["parent", "UPDATE", {"id": 1}, {"id": 3}],
        ["child", "UPDATE", child(1, 1), child(1, 3)],
        ["parent", "DELETE", {"id": 3}, null],
        ["child", "DELETE", child(1, 3), null],
        ["audit", "INSERT", null, {"id": 1, "what": "DELETE"}],
        ["parent", "DELETE", {"id": 2}, null],
        ["child", "DELETE", child(2, 2), null],
        ["loose", "UPDATE", child(10, 2), {"id": 10, "parent": null}],
        ["audit", "INSERT", null, {"id": 2, "what": "DELETE"}],
    ]);
    assert_eq!(json!(scene.log().await), expected);
}

#[tokio::test]
async fn constraints_and_triggers_that_wait_for_the_commit_are_part_of_the_transaction() {
    let ddl = "
        create table items (id int primary key deferrable initially deferred, name text);
        create table parent (id int primary key);
        create table child (id int references parent deferrable initially deferred);
        create function more() returns trigger language plpgsql as
            'begin insert into parent values (new.id); return null; end';
        create constraint trigger more after insert on items deferrable initially deferred
            for each row when (new.name = 'more') execute function more()";
    let scene = Scene::start(ddl).await;
    for table in ["items", "parent", "child"] {
        scene.create(table, table, &format!("/{table}"), json!({})).await;
    }
    scene.execute("begin; insert into child values (1); insert into parent values (1); commit").await;
    scene.execute("insert into items values (1, 'a'), (2, 'b')").await;
    scene.execute("update items set id = 3 - id").await;
    // Both fail at the commit, when all is written.
    for statements in ["insert into child values (7)", "insert into items values (1, 'twice')"] {
        assert!(scene.sql.batch_execute(&format!("begin; {statements}; commit")).await.is_err());
    }
    scene.execute("begin; insert into items values (3, 'more'), (4, 'c'); commit").await;
    let row = |id: i64, name: &str| json!({"id": id, "name": name});
    let expected = json!([
        ["child", "INSERT", null, {"id": 1}],
        ["parent", "INSERT", null, {"id": 1}],
        ["items", "INSERT", null, row(1, "a")],
        ["items", "INSERT", null, row(2, "b")],
        ["items", "UPDATE", row(1, "a"), row(2, "a")],
        ["items", "UPDATE", row(2, "b"), row(1, "b")],
        ["items", "INSERT", null, row(3, "more")],
        ["items", "INSERT", null, row(4, "c")],
        ["parent", "INSERT", null, {"id": 3}],
    ]);
    assert_eq!(json!(scene.log().await), expected);
}

#[tokio::test]
async fn a_hundred_thousand_subtransactions_make_the_events_of_those_that_were_kept() {
    let scene = items().await;
    // Each block is a subtransaction; every tenth is rolled back.
    let block = "do $$ begin
        for i in 1..100000 loop
            begin
                insert into items values (i, 'a');
                if i % 10 = 0 then raise exception 'back'; end if;
            exception when raise_exception then null;
            end;
        end loop;
    end $$";
    scene.execute(block).await;
    scene.settle().await;
    let wrong = "
        with found as (
            select (new ->> 'id')::int as id, ordinal, row_number() over (order by seq) as place,
                   operation = 'INSERT' and old is null and new ->> 'name' = 'a' as sound
            from walhook.events where trigger = 't'
        ), wanted as (select id, row_number() over (order by id) as place from items)
        select count(*) from found f full join wanted w using (place)
        where f.id is distinct from w.id or f.ordinal is distinct from place or not f.sound";
    assert_eq!(scene.count("select count(*) from walhook.events where trigger = 't'").await, 90_000);
    assert_eq!(scene.count(wrong).await, 0);
    assert_eq!(scene.count("select count(distinct commit_lsn) from walhook.events where trigger = 't'").await, 1);
}

#[tokio::test]
async fn a_prepared_transaction_counts_when_it_is_committed_also_across_crashes() {
    let settings = vec![("max_prepared_transactions".to_owned(), "8".to_owned())];
    let cluster = Cluster::start(Options { settings, ..Options::default() }).await.expect("a cluster");
    let scene = Scene::in_database(TestDatabase::create_in(&cluster).await, ITEMS, |start| start).await;
    scene.create("t", "items", "/t", json!({"transaction": true})).await;
    for (name, id) in [("kept", 1), ("later", 2), ("gone", 3)] {
        let prepare = "begin; insert into items values ({id}, '{name}'); savepoint a;
                       insert into items values (-{id}, 'back'); rollback to savepoint a; prepare transaction '{name}'";
        scene.execute(&prepare.replace("{id}", &id.to_string()).replace("{name}", name)).await;
    }
    let xid: i64 = scene.value("select transaction::text::bigint from pg_prepared_xacts where gid = 'kept'", &[]).await;
    scene.execute("insert into items values (4, 'between')").await;
    assert_eq!(scene.log().await, inserted(&[(4, "between")]));
    // A trigger that is made before the commit sees all of it.
    scene.create("u", "items", "/u", json!({})).await;
    let mut scene = scene.crash_and_restart().await;
    for statement in ["rollback prepared 'gone'", "commit prepared 'kept'", "insert into items values (5, 'after')"] {
        scene.execute(statement).await;
    }
    assert_eq!(scene.log().await.len(), 5);
    assert!(scene.walhook.terminate(DEADLINE).await.success());
    // And while nobody reads, with the checkpoint that writes prepared transactions out.
    scene.execute("checkpoint").await;
    scene.execute("commit prepared 'later'").await;
    scene.walhook = Start::serve(&scene.database).on_port(scene.walhook.port()).ready().await;
    scene.settle().await;
    let of = |trigger: &str| {
        format!("select array(select new ->> 'name' from walhook.events where trigger = '{trigger}' order by seq)")
    };
    assert_eq!(scene.value::<Vec<String>>(&of("t"), &[]).await, ["between", "kept", "after", "later"]);
    assert_eq!(scene.value::<Vec<String>>(&of("u"), &[]).await, ["kept", "after", "later"]);
    let requests = scene.arrivals("/t", 4).await;
    let kept = requests.iter().map(|request| request.json()["event"].clone());
    let kept = kept.into_iter().find(|event| event["data"]["new"]["name"] == "kept").expect("the event");
    assert_eq!(kept["transaction"]["xid"], xid);
}

/// The log writer has an open transaction with parts of a large one in it.
const APPENDING: &str = "select count(*) from pg_stat_activity where application_name = 'walhook capture' and
                         backend_xid is not null and datname = current_database() and
                         query like '%copy walhook.event%'";

/// `WALHOOK_TEST_HUGE` gives another number of rows; CONTRIBUTING.md has the command.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_transaction_is_bounded_in_memory_holds_up_nobody_and_survives_a_kill_in_its_middle() {
    let rows = std::env::var("WALHOOK_TEST_HUGE").ok().and_then(|rows| rows.parse().ok()).unwrap_or(300_000_i64);
    let long = Duration::from_secs(180 + rows.unsigned_abs() / 5000);
    let scene = Scene::start("create table huge (id int primary key); create table other (id int primary key)").await;
    // So slow that its events are still being delivered when the others' are.
    scene.receiver.on("/huge", Script::always(Answer::status(204).after(Duration::from_millis(100))));
    scene.create("huge", "huge", "/huge", json!({})).await;
    scene.create("other", "other", "/other", json!({"enable_manual": true})).await;
    scene
        .execute(&format!("begin; insert into huge select generate_series(1, {rows}); insert into other values (1)"))
        .await;
    scene.execute("commit").await;
    scene.wait_for_count(APPENDING, 1).await;
    for sent in 1..=3 {
        scene.succeed("invoke_event_trigger", json!({"name": "other", "payload": sent})).await;
        scene.arrivals("/other", sent).await;
    }
    // A row takes some 135 bytes, so this is about the middle.
    let size = "select sum(pg_relation_size(inhrelid))::bigint from pg_inherits
                where inhparent = 'walhook.event'::regclass";
    let middle = || async {
        let bytes = scene.count(size).await;
        if bytes > rows * 65 { Ok(()) } else { Err(bytes) }
    };
    eventually("the middle", long, middle).await;
    assert_eq!(scene.count(APPENDING).await, 1, "it ended before its middle; make WALHOOK_TEST_HUGE larger");
    let first = scene.walhook.memory_kib().highest;
    let scene = scene.crash_and_restart().await;
    let end = "select count(*) from walhook.event e join walhook.trigger t on t.id = e.trigger_id
               where t.name = 'other' and operation = 'INSERT'";
    let ended = || async {
        tokio::time::sleep(Duration::from_millis(250)).await;
        if scene.count(end).await == 1 { Ok(()) } else { Err("the end of the transaction is not in the log") }
    };
    let started = std::time::Instant::now();
    eventually("the huge transaction", long, ended).await;
    let appended = started.elapsed();
    scene.execute("insert into other values (2)").await;
    let arrived = |request: &Request| request.path == "/other" && request.json()["event"]["data"]["new"]["id"] == 2;
    scene.receiver.wait_until(DEADLINE, |all| all.iter().any(arrived)).await;
    assert!((scene.receiver.count() as i64) < rows, "the huge transaction's events were all delivered before");
    let highest = first.max(scene.walhook.memory_kib().highest);
    println!("{rows} rows: {highest} KiB at most, {appended:.1?} from the restart until all were in the log");
    assert!(highest < 64 * 1024, "{highest} KiB");
    let wrong = "
        with found as (
            select seq - min(seq) over () + 1 as place, ordinal, (new::json ->> 'id')::bigint as id
            from walhook.event e join walhook.trigger t on t.id = e.trigger_id
            where t.name = 'huge' and operation = 'INSERT'
        )
        select count(*) filter (where place = ordinal and ordinal = id) as sound, count(*) as events,
               count(distinct id) as ids
        from found";
    let row = scene.sql.query_one(wrong, &[]).await.expect("counts");
    let counts = ["sound", "events", "ids"].map(|name| row.get::<_, i64>(name));
    assert_eq!(counts, [rows; 3], "sound, events, distinct rows");
}
