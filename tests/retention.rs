//! Old partitions: what is dropped, what stays, and that nobody is held up by it.

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::cluster::TestDatabase;
use support::receiver::{Answer, Script};
use support::scene::{DEADLINE, Scene};
use support::walhook::Start;
use walhook::model::Timestamp;
use walhook::postgres::Session;
use walhook::queue::{self, Keeper, Retention, Round};

const TABLES: &str = "create table items (id int generated always as identity primary key, name text);
                      create table other (id int generated always as identity primary key, name text)";
const DAY: u64 = 86_400;
const WEEK_AND_MONTH: Retention =
    Retention { events: Duration::from_secs(7 * DAY), dead: Duration::from_secs(30 * DAY) };

/// A round as it will be in so many days.
async fn round_in(session: &mut Session, days: u64) -> Round {
    let now = Timestamp::now().plus_seconds(days * DAY);
    Keeper::new(WEEK_AND_MONTH).round(session, now).await.expect("a round").expect("no other session at it")
}

async fn complete_round_in(session: &mut Session, days: u64) -> Round {
    complete_round(session, WEEK_AND_MONTH, Timestamp::now().plus_seconds(days * DAY)).await
}

/// The noon so many days after this one.
fn noon_after(day: i64, days: u64) -> Timestamp {
    Timestamp::at_unix_day(day).plus_seconds(days * DAY + DAY / 2)
}

async fn complete_round_after(session: &mut Session, day: i64, days: u64) -> Round {
    complete_round(session, WEEK_AND_MONTH, noon_after(day, days)).await
}

/// A round may find a partition in use by what walhook or the server do beside it.
async fn complete_round(session: &mut Session, retention: Retention, now: Timestamp) -> Round {
    let end = std::time::Instant::now() + DEADLINE;
    let mut all = Round::default();
    loop {
        let round = Keeper::new(retention).round(session, now).await.expect("a round").expect("no other session at it");
        all.dropped.extend(round.dropped);
        all.reduced.extend(round.reduced);
        (all.held, all.failed) = (round.held, round.failed);
        if round.in_use.is_empty() {
            return all;
        }
        assert!(std::time::Instant::now() < end, "always in use: {:?}", round.in_use);
    }
}

async fn number(session: &Session, query: &str) -> i64 {
    session.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{error:?} in {query}")).get(0)
}

fn retries(number: u32) -> Value {
    json!({"retry_conf": {"num_retries": number, "interval_sec": 3600, "timeout_sec": 10}})
}

/// Hundred delivered events, five dead and five that wait for a retry, all of one day and with attempts of that day:
/// which day that is. Where midnight came between, it is done once more.
async fn delivered_dead_and_waiting() -> (Scene, i64) {
    loop {
        // From this day on there are partitions.
        let first = Timestamp::now().0.div_euclid(1_000_000 * DAY as i64);
        let scene = try_delivered_dead_and_waiting().await;
        let days = "select array_agg(distinct extract(epoch from date_trunc('day', moment, 'UTC'))::bigint / 86400)
                    from (select committed_at from walhook.event
                          union all select started_at from walhook.attempt) d (moment)";
        let days: Vec<i64> = scene.value(days, &[]).await;
        if days == [first] {
            return (scene, first);
        }
    }
}

async fn try_delivered_dead_and_waiting() -> Scene {
    let scene = Scene::start(TABLES).await;
    scene.receiver.on("/dead", Script::always(Answer::status(500)));
    scene.receiver.on("/waiting", Script::always(Answer::status(500)));
    scene.create("fine", "items", "/fine", json!({})).await;
    scene.create("dead", "other", "/dead", json!({})).await;
    scene.create("waiting", "other", "/waiting", retries(5)).await;
    scene.execute("insert into items (name) select 'a' from generate_series(1, 100)").await;
    scene.execute("insert into other (name) select 'a' from generate_series(1, 5)").await;
    let by_status = "select count(*) from walhook.events where (trigger, status) in
                     (('fine', 'delivered'), ('dead', 'dead'), ('waiting', 'retrying'))";
    scene.wait_for_count(by_status, 110).await;
    scene
}

#[tokio::test]
async fn what_is_dead_or_waits_outlives_its_partition_and_is_found_by_everybody() {
    let (scene, day) = delivered_dead_and_waiting().await;
    let mut session = scene.database.connect().await;
    let round = Keeper::new(WEEK_AND_MONTH).round(&mut session, noon_after(day, 7)).await.expect("a round");
    assert_eq!(round, Some(Round::default()), "the day is not over for a week yet");
    assert_eq!(scene.count("select count(*) from walhook.event").await, 110);

    let round = complete_round_after(&mut session, day, 10).await;
    assert_eq!((round.reduced.len(), round.held.len()), (2, 0), "events and attempts: {round:?}");
    assert_eq!(scene.count("select count(*) from walhook.event").await, 10);
    assert_eq!(scene.count("select count(*) from walhook.attempt").await, 10);
    let kept = "select count(*) from walhook.events where attempts = 1 and last_status = 500
                and (trigger, status) in (('dead', 'dead'), ('waiting', 'retrying'))";
    assert_eq!(scene.count(kept).await, 10);
    let index = "select count(*) from pg_index i join pg_inherits h on h.inhrelid = i.indexrelid
                 where indrelid = ('walhook.' || $1)::regclass and indisvalid";
    for partition in &round.reduced {
        assert!(scene.value::<i64>(index, &[&partition]).await > 1, "the indexes of {partition}");
    }
    assert_eq!(complete_round_after(&mut session, day, 10).await, Round::default(), "once is enough");

    // Redelivery by id, and a retry that comes due.
    scene.receiver.on("/dead", Script::default());
    scene.receiver.on("/waiting", Script::default());
    let id: String = scene.value("select min(id::text) from walhook.events where trigger = 'dead'", &[]).await;
    scene.succeed("redeliver_event", json!({"event_id": id})).await;
    scene.execute("update walhook.deferred set due_at = now() where reason = 'retry'").await;
    let requests = scene.arrivals("/dead", 6).await;
    assert_eq!(requests[5].json()["id"], json!(id));
    scene.arrivals("/waiting", 10).await;
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 6).await;
    // What is late goes into the partition that took the old one's place.
    scene.execute("insert into items (name) values ('b')").await;
    scene.arrivals("/fine", 101).await;
}

#[tokio::test]
async fn the_log_goes_on_after_its_last_event_was_dropped() {
    let (scene, day) = delivered_dead_and_waiting().await;
    scene.execute("update walhook.deferred set due_at = 'infinity'").await;
    let last = "select greatest((select max(seq) from walhook.event), max(after_seq)) from walhook.progress";
    let before = scene.count(last).await;
    let mut session = scene.database.connect().await;
    // The dead ones' time is over; what waits is kept for as long as it waits.
    complete_round_after(&mut session, day, 40).await;
    assert_eq!(scene.count("select count(*) from walhook.event").await, 5);
    scene.execute("delete from walhook.deferred").await;
    let round = complete_round_after(&mut session, day, 40).await;
    assert_eq!(round.dropped.len(), 2, "{round:?}");
    assert_eq!(scene.count("select count(*) from walhook.event").await, 0);
    assert_eq!(scene.count("select count(*) from walhook.attempt").await, 0);
    assert_eq!(scene.count(last).await, before);

    // This walhook takes the partition to be there; the next one knows nothing but what is left.
    scene.execute("insert into items (name) values ('b')").await;
    scene.arrivals("/fine", 101).await;
    assert_eq!(scene.count(last).await, before + 1);
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 1).await;
    complete_round_in(&mut session, 40).await;
    assert_eq!(scene.count("select count(*) from walhook.event").await, 0);
    let scene = scene.crash_and_restart().await;
    scene.execute("insert into items (name) values ('c')").await;
    scene.arrivals("/fine", 102).await;
    assert_eq!(scene.count(last).await, before + 2, "no seq was given twice");
    assert_eq!(scene.count("select count(*) from walhook.gap").await, 0);
}

#[tokio::test]
async fn pending_events_hold_their_day_and_a_log_in_use_is_left_alone() {
    let scene = Scene::start(TABLES).await;
    scene.receiver.on("/hung", Script::always(Answer::hang()));
    scene.create("fine", "items", "/fine", json!({})).await;
    scene.create("hung", "items", "/hung", json!({"retry_conf": {"timeout_sec": 600}})).await;
    scene.execute("insert into items (name) select 'a' from generate_series(1, 10)").await;
    scene.wait_for_count("select count(*) from walhook.events where status = 'delivered'", 10).await;
    let mut session = scene.database.connect().await;
    let round = complete_round_in(&mut session, 50).await;
    assert_eq!(round.held.into_values().collect::<Vec<_>>(), [["hung"]]);
    assert_eq!(round.reduced.len(), 0);
    assert_eq!(scene.count("select count(*) from walhook.event").await, 20);
    assert_eq!(scene.count("select count(*) from walhook.attempt").await, 10, "attempts stay as long as their events");

    scene.succeed("delete_event_trigger", json!({"name": "hung"})).await;
    // An append that is not committed, as that of a huge transaction.
    let appending = scene.database.connect().await;
    appending.batch_execute("begin; lock table walhook.event in row exclusive mode").await.expect("a lock");
    let round = round_in(&mut session, 50).await;
    assert_eq!((round.in_use.len(), round.dropped.len()), (1, 0), "{round:?}");
    assert_eq!(scene.count("select count(*) from walhook.event").await, 20);
    appending.batch_execute("rollback").await.expect("an end");

    let lock = "select pg_try_advisory_lock(hashtext('walhook'), 4)::int::bigint";
    assert_eq!(number(&appending, lock).await, 1);
    let now = Timestamp::now();
    assert_eq!(
        Keeper::new(WEEK_AND_MONTH).round(&mut session, now).await.expect("an answer"),
        None,
        "another is at it"
    );
    drop(appending);
    let gone = || async {
        let now = Timestamp::now().plus_seconds(50 * DAY);
        let round = Keeper::new(WEEK_AND_MONTH).round(&mut scene.database.connect().await, now).await.expect("a round");
        let left = scene.count("select (select count(*) from walhook.event) + count(*) from walhook.attempt").await;
        if left == 0 { Ok(()) } else { Err((left, round)) }
    };
    support::wait::eventually("nothing is left", DEADLINE, gone).await;
}

#[tokio::test]
async fn a_node_does_it_by_itself_and_in_the_queues_database() {
    let queue = TestDatabase::create().await;
    let url = ["--queue-url", queue.url()];
    // Its own first round may come late, and leaves the old partition alone.
    let scene = Scene::start_with(TABLES, |start| start.with(&url).with(&["--retention", "30d"])).await;
    let session = queue.connect().await;
    let old = Timestamp::now().unix_day() - 20;
    queue::ensure_partitions(&*session, &[old]).await.expect("old partitions");
    let partitions = "select count(*) from pg_inherits where inhparent = 'walhook.event'::regclass";
    let before = number(&session, partitions).await;
    assert!(before > 3, "the next days' are made ahead: {before}");
    // Not how many there are: a day that begins meanwhile brings another one.
    let date = Timestamp::at_unix_day(old).to_string()[..10].replace('-', "");
    let left = format!("select count(*) from pg_class where relname = 'event_{date}'");
    assert_eq!(number(&session, &left).await, 1);
    let Scene { walhook, receiver, sql, database } = scene;
    walhook.kill9().await;
    let walhook = Start::serve(&database).with(&url).with(&["--retention", "2d"]).ready().await;
    let scene = Scene { walhook, receiver, sql, database };
    let check = || async {
        let left = number(&session, &left).await;
        if left == 0 { Ok(()) } else { Err(left) }
    };
    support::wait::eventually("the old partition is gone", DEADLINE, check).await;
    scene.create("fine", "items", "/fine", json!({})).await;
    scene.execute("insert into items (name) values ('a')").await;
    scene.arrivals("/fine", 1).await;
}

/// What a day leaves: delivered events and a few that are dead, as text of statements.
const A_DAY: &str = "
    insert into walhook.event (seq, commit_lsn, ordinal, committed_at, xid, source_id, lane, id, trigger_id, operation,
                               schema_name, table_name, new)
    select $2 * 1000 + n, '0/1', n, $1::date + n * interval '1 minute', '1', t.source_id, 0, gen_random_uuid(), t.id,
           'INSERT', 'public', 'items', json_build_object('id', n, 'name', repeat('x', 300))::text
    from walhook.trigger t cross join generate_series(1, 1000) n;";
const ITS_ATTEMPTS: &str = "
    insert into walhook.attempt (event_seq, started_at, duration_micros, number, source_id, status, event_id,
                                 trigger_id, verdict)
    select seq, committed_at, 1000, 0, source_id, 200, id, trigger_id,
           case when ordinal > 995 then 'dead' else 'delivered' end
    from walhook.event where committed_at >= $1::date and committed_at < $1::date + 1";

/// One that waited for long, or was scheduled, and is refused when its own day is long over.
#[tokio::test]
async fn what_died_late_is_kept_from_then_on() {
    let mut scene = Scene::start(TABLES).await;
    scene.create("fine", "items", "/fine", json!({})).await;
    scene.walhook.terminate(DEADLINE).await;
    let mut session = scene.database.connect().await;
    let now = Timestamp::now();
    let day = now.unix_day() - 40;
    queue::ensure_partitions(&*session, &[day]).await.expect("old partitions");
    let date = Timestamp::at_unix_day(day).to_string()[..10].to_owned();
    let died_now = ITS_ATTEMPTS.replace("committed_at, 1000", "now(), 1000");
    for statement in [A_DAY, &died_now] {
        let text = statement.replace("$1", &format!("'{date}'")).replace("$2", "0");
        session.batch_execute(&text).await.unwrap_or_else(|error| panic!("{error:?} in {text}"));
    }
    for (days, expected) in [(0, 5), (29, 5), (32, 0)] {
        let at = now.plus_seconds(days * DAY);
        Keeper::new(WEEK_AND_MONTH).round(&mut session, at).await.expect("a round").expect("nobody else is at it");
        assert_eq!(number(&session, "select count(*) from walhook.event").await, expected, "after {days} days");
    }
}

#[tokio::test]
async fn the_disk_stays_flat_over_many_periods() {
    const DAYS: i64 = 26;
    let mut scene = Scene::start(TABLES).await;
    scene.create("fine", "items", "/fine", json!({})).await;
    scene.walhook.terminate(DEADLINE).await;
    let mut session = scene.database.connect().await;
    let retention = Retention { events: Duration::from_secs(3 * DAY), dead: Duration::from_secs(10 * DAY) };
    let size = "select sum(pg_total_relation_size(oid))::bigint from pg_class
                where relnamespace = 'walhook'::regnamespace and relkind = 'r'";
    let first = Timestamp::now().unix_day() - DAYS - 10;
    let mut sizes = Vec::new();
    for day in first..first + DAYS {
        let noon = Timestamp::at_unix_day(day).plus_seconds(DAY / 2);
        complete_round(&mut session, retention, noon).await;
        let date = noon.to_string()[..10].to_owned();
        for statement in [A_DAY, ITS_ATTEMPTS] {
            let text = statement.replace("$1", &format!("'{date}'")).replace("$2", &(day - first).to_string());
            session.batch_execute(&text).await.unwrap_or_else(|error| panic!("{error:?} in {text}"));
        }
        sizes.push(number(&session, size).await / 1024);
    }
    println!("KiB after each day: {sizes:?}");
    // From the second week on each day that comes pushes one out; five of its events stay for a week more.
    let (early, late) = (sizes[12..19].iter().max().copied(), sizes[19..].iter().max().copied());
    assert!(late <= early.map(|early| early + early / 20), "{early:?} KiB, then {late:?}: {sizes:?}");
    let dead = "select count(*) from walhook.events where status = 'dead'";
    assert_eq!(number(&session, dead).await, 5 * 11, "of today and the ten days before");
    assert!(number(&session, "select count(*) from walhook.event").await < 1000 * 6);

    // A replay holds what it has not come to yet.
    let replay = "insert into walhook.replay (id, trigger_id, source_id, done_to, to_seq, events)
                  select gen_random_uuid(), id, source_id, 0, 1000000, 1 from walhook.trigger where deleted_at is null";
    session.batch_execute(replay).await.expect("a replay");
    let round = complete_round_in(&mut session, 0).await;
    assert!(!round.held.is_empty() && round.held.values().all(|triggers| triggers == &["fine"]), "{round:?}");
    session.batch_execute("update walhook.replay set state = 'done'").await.expect("its end");
    complete_round_in(&mut session, 60).await;
    assert_eq!(number(&session, "select count(*) from walhook.event").await, 0);
}

#[tokio::test]
async fn successful_deliveries_update_and_delete_nothing() {
    let rows: i64 = std::env::var("WALHOOK_TEST_DELIVERIES").map_or(10_000, |rows| rows.parse().expect("a number"));
    let mut scene = Scene::start(TABLES).await;
    scene.create("fine", "items", "/fine", json!({})).await;
    scene.execute(&format!("insert into items (name) select 'a' from generate_series(1, {rows})")).await;
    let recorded = || async {
        let recorded = scene.count("select count(*) from walhook.attempt").await;
        if recorded == rows { Ok(()) } else { Err(recorded) }
    };
    let deadline = DEADLINE * (1 + rows as u32 / 10_000);
    support::wait::eventually("all are delivered", deadline, recorded).await;
    // The end of its sessions brings what they counted to the statistics.
    scene.walhook.terminate(DEADLINE).await;
    let inserted = "select sum(n_tup_ins)::bigint from pg_stat_user_tables
                    where schemaname = 'walhook' and relname ~ '^(event|attempt)_'";
    scene.wait_for_count(inserted, 2 * rows).await;
    let counts = "select array[sum(n_tup_upd), sum(n_tup_del), sum(n_dead_tup)]::bigint[] from pg_stat_user_tables
                  where schemaname = 'walhook' and relname ~ '^(event|attempt)_'";
    assert_eq!(scene.value::<Vec<i64>>(counts, &[]).await, [0, 0, 0], "updated, deleted, dead");
    let others = "select sum(n_tup_upd + n_tup_del)::bigint from pg_stat_user_tables where schemaname = 'walhook'";
    let others = scene.count(others).await;
    println!("{rows} deliveries: no row of event and attempt updated, deleted or dead; {others} in all other tables");
    assert!(others < 1000 + rows / 100, "{others} rows of other tables were written over");
}

/// Nothing can be sent of it, and whoever looked for it at once would do so for ever.
#[tokio::test]
async fn what_waits_and_is_not_in_the_log_any_more_is_not_looked_for_again_and_again() {
    let scene = Scene::start("create table items (id int); create table others (id int)").await;
    scene.receiver.on("/t", Script::always(Answer::status(500)));
    scene.create("t", "items", "/t", json!({"retry_conf": {"num_retries": 9, "interval_sec": 1}})).await;
    scene.create("other", "others", "/other", json!({})).await;
    scene.execute("insert into items values (1)").await;
    scene.wait_for_count("select count(*) from walhook.deferred", 1).await;
    scene.execute("delete from walhook.event").await;
    let overdue = "select count(*) from walhook.deferred where due_at < now() - interval '1 second'";
    scene.wait_for_count(overdue, 1).await;
    let looks = "select idx_scan + seq_scan from pg_stat_user_tables where relid = 'walhook.deferred'::regclass";
    let (began, before) = (Instant::now(), scene.count(looks).await);
    let mut delivered = 0;
    while began.elapsed() < Duration::from_secs(3) {
        delivered += 1;
        scene.execute(&format!("insert into others values ({delivered})")).await;
        scene.arrivals("/other", delivered).await;
    }
    let looks = scene.count(looks).await - before;
    assert!(looks < delivered as i64 + 200, "{looks} looks beside {delivered} deliveries");
}

/// To find out what stays of a day reads all that is dead or waits.
#[tokio::test]
async fn a_day_of_which_all_stays_is_not_looked_at_again_for_a_day() {
    let (scene, day) = delivered_dead_and_waiting().await;
    let (mut session, user) = (scene.database.connect().await, scene.database.connect().await);
    let mut keeper = Keeper::new(WEEK_AND_MONTH);
    let reduced = async {
        let mut reduced = Vec::new();
        loop {
            let round = keeper.round(&mut session, noon_after(day, 10)).await.expect("a round").expect("nobody else");
            reduced.extend(round.reduced);
            if round.in_use.is_empty() {
                return reduced;
            }
        }
    };
    let reduced = support::wait::within("events and attempts to be reduced", DEADLINE, reduced).await;
    assert_eq!(reduced.len(), 2, "{reduced:?}");
    // Whoever looks at one now finds it in use.
    let tables = reduced.iter().map(|name| format!("walhook.{name}")).collect::<Vec<_>>().join(", ");
    user.batch_execute(&format!("begin; lock table only {tables} in row exclusive mode")).await.expect("locks");
    for (days, in_use) in [(10, 0), (11, 1)] {
        let round = keeper.round(&mut session, noon_after(day, days)).await.expect("a round").expect("nobody else");
        assert_eq!(round.in_use.len(), in_use, "{days}: {round:?}");
    }
}

/// An operator made a view on a partition, so it cannot be dropped.
#[tokio::test]
async fn a_partition_that_cannot_be_dropped_does_not_keep_the_others() {
    let (scene, day) = delivered_dead_and_waiting().await;
    let partition =
        "select 'event_' || to_char(committed_at at time zone 'UTC', 'YYYYMMDD') from walhook.event limit 1";
    let partition: String = scene.value(partition, &[]).await;
    scene.execute(&format!("create view theirs as select id from walhook.{partition}")).await;
    let mut session = scene.database.connect().await;
    // The next two days are empty.
    let round = complete_round_after(&mut session, day, 11).await;
    let failed: Vec<&String> = round.failed.keys().collect();
    assert_eq!(failed, [&partition], "{round:?}");
    assert!(round.failed[&partition].contains("depend"), "{round:?}");
    for parent in ["event_", "attempt_"] {
        assert!(round.dropped.iter().any(|name| name.starts_with(parent)), "{round:?}");
    }
    scene.execute("drop view theirs").await;
    let round = complete_round_after(&mut session, day, 11).await;
    assert!(round.failed.is_empty() && round.reduced.contains(&partition), "{round:?}");
}
