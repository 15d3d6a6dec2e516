//! Backfills while others write, and while walhook is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;
use walhook::postgres::cluster::{Cluster, Options};
use walhook::postgres::{Settings, connect};

use super::support::cluster::TestDatabase;
use super::support::load::Dice;
use super::support::scene::{DEADLINE, Scene};
use super::support::wait::eventually;
use super::{ITEMS, ROWS, backfill, done, status};

/// Sessions that insert, update, delete, move to another key, and empty and fill ranges, over and over.
struct Churn {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Churn {
    fn start(database: &TestDatabase, sessions: usize, rows: i64, dice: &mut Dice) -> Churn {
        let stop = Arc::new(AtomicBool::new(false));
        let task = |_| tokio::spawn(churn(database.settings(), rows as u64, dice.split(), stop.clone()));
        Churn { tasks: (0..sessions).map(task).collect(), stop }
    }

    async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a writer");
        }
    }
}

async fn churn(settings: Settings, rows: u64, mut dice: Dice, stop: Arc<AtomicBool>) {
    let session = connect(&settings, "churn").await.expect("a session");
    while !stop.load(Ordering::Relaxed) {
        let id = dice.below(rows) + 1;
        let span = dice.below(6);
        let statement = match dice.below(8) {
            0 => format!("delete from public.items where id = {id}"),
            1 => format!("insert into public.items values ({id}, 1) on conflict (id) do update set n = items.n + 1"),
            2 => format!(
                "begin; delete from public.items where id = {id}; insert into public.items values ({id}); commit"
            ),
            3 => format!("update public.items set id = id + {span} where id = {id}"),
            4 => format!("begin; update public.items set n = n + 1 where id = {id}; rollback"),
            _ => format!("update public.items set n = n + 1 where id between {id} and {id} + {span}"),
        };
        // Deadlocks and keys that are taken are part of it.
        if session.batch_execute(&statement).await.is_err() {
            drop(session.batch_execute("rollback").await);
        }
        // What is tested is the order, not how much a machine can take.
        tokio::time::sleep(Duration::from_millis(dice.below(4))).await;
    }
}

/// Keys whose last event in the log is not what the table says. An update that moves a row ends its old key.
const DIFFERENCE: &str = "
    with told as (
        select seq, (new::json ->> 'id')::int as id, new from walhook.event where new is not null
        union all
        select seq, (old::json ->> 'id')::int, null from walhook.event
        where old is not null and (new is null or old::json ->> 'id' <> new::json ->> 'id')
    ), last as (select distinct on (id) id, new from told order by id, seq desc, new is null)
    select array(select concat(coalesce(i.id, l.id), ': ', row_to_json(i)::text, ' told ', l.new)
                 from items i full join last l on l.id = i.id
                 where row_to_json(i)::text is distinct from l.new and (i.id is not null or l.new is not null)
                 limit 10)";

async fn check_last_events(scene: &Scene) {
    let check = || async {
        let wrong: Vec<String> = scene.value(DIFFERENCE, &[]).await;
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    };
    eventually("the last event of each row tells what is in the table", DEADLINE, check).await;
    assert_eq!(scene.count("select count(*) - count(distinct id) from walhook.event").await, 0);
    let twice = "select count(*) from (select from walhook.event where backfill_id is not null
                 group by backfill_id, new::json ->> 'id' having count(*) > 1) s";
    // A row may come once more where its key changed, or where it was deleted and made again.
    let moved = "select count(*) from walhook.event where operation = 'DELETE'
                 or operation = 'UPDATE' and old::json ->> 'id' <> new::json ->> 'id'";
    assert!(scene.count(twice).await <= scene.count(moved).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_meanwhile_is_never_overwritten_by_older_rows() {
    const ALL: i64 = 12_000;
    let mut dice = Dice::from_environment();
    let scene = Scene::start(ITEMS).await;
    scene.execute(&format!("insert into items select i from generate_series(1, {ALL}) i")).await;
    scene.create("t", "items", "/t", json!({})).await;
    let churn = Churn::start(&scene.database, 4, ALL, &mut dice);
    let mut superseded = 0;
    for _ in 0..3 {
        let id = backfill(&scene, json!({"name": "t"})).await;
        assert!(done(&scene, &id).await > ALL / 2);
        superseded += status(&scene, &id).await.3;
    }
    churn.finish().await;
    println!("{superseded} rows were superseded");
    check_last_events(&scene).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_in_the_middle_repeat_no_row_and_leave_none_out() {
    const ALL: i64 = 40_000;
    let mut dice = Dice::from_environment();
    let scene = Scene::start(ITEMS).await;
    scene.execute(&format!("insert into items select i, 0, repeat('x', 200) from generate_series(1, {ALL}) i")).await;
    scene.create("t", "items", "/t", json!({"update": {"columns": ["n", "id"]}})).await;
    let churn = Churn::start(&scene.database, 2, ALL, &mut dice);
    let id = backfill(&scene, json!({"name": "t"})).await;
    let (mut scene, mut in_the_middle) = (scene, 0);
    for kill in 1..=5 {
        let further = || async {
            let found = status(&scene, &id).await;
            if found.1 >= kill * ROWS || found.0 == "done" { Ok(found) } else { Err(found) }
        };
        let found = eventually("progress", DEADLINE, further).await;
        in_the_middle += usize::from(found.1 < ALL && found.0 == "running");
        tokio::time::sleep(Duration::from_millis(dice.below(60))).await;
        scene = scene.crash_and_restart().await;
    }
    assert!(in_the_middle > 0, "all kills came too late");
    done(&scene, &id).await;
    churn.finish().await;
    check_last_events(&scene).await;
    let (_, looked_at, sent, superseded) = status(&scene, &id).await;
    println!("{in_the_middle} kills in the middle; {looked_at} rows, {sent} sent, {superseded} superseded");
    assert_eq!(sent + superseded, looked_at);
    assert_eq!(scene.count("select count(*) from walhook.event where backfill_id is not null").await, sent);
}

/// The stream has a commit that waits for a standby; nobody else sees it before that confirmed it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_commit_waits_for_a_standby_begins_once_it_is_seen() {
    let cluster = Cluster::start(Options::default()).await.expect("a cluster");
    let (source, queue) = (TestDatabase::create_in(&cluster).await, TestDatabase::create().await);
    let scene = Scene::in_database(source, ITEMS, |start| start.with(&["--queue-url", queue.url()])).await;
    scene.execute("insert into items select i from generate_series(1, 10) i").await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("alter system set synchronous_standby_names = 'nobody'").await;
    scene.execute("select pg_reload_conf()").await;
    let waits = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    let asked = scene.succeed("backfill_event_trigger", json!({"name": "t"}));
    let confirmed = async {
        eventually("a commit that waits", DEADLINE, || async {
            if scene.count(waits).await > 0 { Ok(()) } else { Err(scene.walhook.log()) }
        })
        .await;
        // Time for a look that finds nothing. Where there was none yet, this shows less, and fails no sooner.
        tokio::time::sleep(Duration::from_millis(500)).await;
        scene.execute("alter system reset synchronous_standby_names").await;
        scene.execute("select pg_reload_conf()").await;
    };
    tokio::join!(asked, confirmed);
    let sent = scene.arrivals("/t", 10).await;
    assert!(sent.iter().all(|request| request.header("walhook-backfill").is_some()));
    drop((scene, queue));
}

/// The trigger is not told that a row goes, only that it comes back, with a greater number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_was_deleted_and_inserted_anew_is_not_followed_by_what_it_was_before() {
    let scene = Scene::start(ITEMS).await;
    scene.execute("insert into items select i, 0 from generate_series(1, 100) i").await;
    scene.create("t", "items", "/t", json!({"insert": {"columns": "*"}, "update": null, "delete": null})).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut dice = Dice::from_environment();
    let writers = [dice.split(), dice.split()].map(|mut dice| {
        let (settings, stop) = (scene.database.settings(), stop.clone());
        tokio::spawn(async move {
            let session = connect(&settings, "churn").await.expect("a session");
            while !stop.load(Ordering::Relaxed) {
                let id = dice.below(100) + 1;
                let anew = format!(
                    "do $$ declare before int;
                     begin
                         delete from public.items where id = {id} returning n into before;
                         if before is not null then insert into public.items values ({id}, before + 1); end if;
                     end $$"
                );
                session.batch_execute(&anew).await.expect("the row anew");
            }
        })
    });
    for _ in 0..8 {
        let id = backfill(&scene, json!({"name": "t"})).await;
        done(&scene, &id).await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("a writer");
    }
    scene.settle().await;
    let older = "select count(*) from (
                     select n < lag(n) over (partition by id order by seq) as is_older
                     from (select seq, (new::json ->> 'id')::int as id, (new::json ->> 'n')::int as n
                           from walhook.event where schema_name = 'public' and table_name = 'items') e
                 ) events where is_older";
    assert_eq!(scene.count(older).await, 0);
}
