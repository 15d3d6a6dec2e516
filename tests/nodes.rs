//! Several nodes on one queue.

mod support;

use std::collections::HashMap;
use std::time::Instant;

use serde_json::json;
use support::cluster::TestDatabase;
use support::load::{Dice, LEDGER, Writers, check_delivered, check_log};
use support::proxy::{Proxy, Weather};
use support::receiver::{Answer, Receiver, Script};
use support::scene::{DEADLINE, Scene};
use support::wait::eventually;
use support::walhook::{Start, Walhook};
use walhook::queue::{self, Notice};

const ITEMS: &str = "create table public.items (id bigint generated always as identity primary key, name text)";
const EVENTS: &str = "select count(*) from walhook.event";
const DELIVERED: &str = "select count(*) from walhook.attempts where verdict = 'delivered'";

/// How many lanes a node has, by the locks of its session.
async fn lanes_of(scene: &Scene, node: &Walhook) -> i64 {
    scene.count(&format!("select count(*) from walhook.lanes where process_id = {}", node.process_id())).await
}

/// Waits until a node has at least so many lanes.
async fn wait_for_some_lanes(scene: &Scene, node: &Walhook, lanes: i64) {
    let check = || async {
        let found = lanes_of(scene, node).await;
        if found >= lanes { Ok(()) } else { Err(format!("{found} lanes; its log:\n{}", node.log())) }
    };
    eventually("the lanes", DEADLINE, check).await;
}

/// Waits until these nodes have all lanes, none more than one lane more than another.
async fn wait_for_lanes(scene: &Scene, nodes: &[&Walhook]) {
    let began = Instant::now();
    let least = 16 / nodes.len() as i64;
    let check = || async {
        let mut found = Vec::new();
        for node in nodes {
            found.push(lanes_of(scene, node).await);
        }
        let level = found.iter().all(|lanes| (least..=least + 1).contains(lanes));
        let logs = || nodes.iter().map(|node| node.log()).collect::<Vec<_>>().join("\n---\n");
        if level && found.iter().sum::<i64>() == 16 { Ok(()) } else { Err(format!("{found:?} lanes:\n{}", logs())) }
    };
    eventually("level lanes", DEADLINE, check).await;
    println!("{} nodes are level after {:?}", nodes.len(), began.elapsed());
}

/// The first time that each change of a row in the ledger came, it came after those before it.
fn check_order(scene: &Scene) {
    let mut last = HashMap::new();
    for request in scene.receiver.requests("/ledger") {
        let row = request.json()["event"]["data"]["new"].clone();
        let n = row["n"].as_i64().expect("a number");
        let next = last.entry(row["id"].to_string()).or_insert(0);
        assert!(n <= *next, "{n} came before {next}: {row}");
        *next = (*next).max(n + 1);
    }
}

/// One captures, all deliver; then one after the other is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_share_the_lanes_and_whoever_is_left_takes_them_over() {
    let mut scene = Scene::start(LEDGER).await;
    let second = Start::serve(&scene.database).ready().await;
    let third = Start::serve(&scene.database).ready().await;
    scene.create("ledger", "ledger", "/ledger", json!({})).await;
    let writers = Writers::start(&scene.database, 2, &mut Dice::from_environment());
    wait_for_lanes(&scene, &[&scene.walhook, &second, &third]).await;
    // Of what came since, each node delivered its part.
    let by_node = "select count(distinct l.node) from walhook.attempt a
                   join walhook.event e on e.trigger_id = a.trigger_id and e.source_id = a.source_id
                                       and e.seq = a.event_seq
                   join walhook.lanes l on l.lane = e.lane
                   where a.started_at > l.since";
    scene.wait_for_count(by_node, 3).await;
    third.kill9().await;
    wait_for_lanes(&scene, &[&scene.walhook, &second]).await;
    scene.arrivals("/ledger", scene.receiver.count() + 100).await;
    std::mem::replace(&mut scene.walhook, second).kill9().await;
    wait_for_lanes(&scene, &[&scene.walhook]).await;
    scene.arrivals("/ledger", scene.receiver.count() + 100).await;
    writers.finish().await;
    check_log(&scene.sql, DEADLINE).await;
    check_delivered(&scene.sql, &scene.receiver, DEADLINE).await;
    check_order(&scene);
}

/// Nobody waits for a node that was killed once another one is started on its machine; who lives is not touched.
#[tokio::test]
async fn a_killed_node_is_replaced_at_once_by_one_that_is_started_on_its_machine() {
    // So long that nothing here comes of a node's silence.
    let patient = |start: Start| start.with(&["--node-timeout", "10m"]);
    let Scene { walhook, receiver, sql, database } = Scene::start_with(ITEMS, patient).await;
    let other = patient(Start::serve(&database)).ready().await;
    walhook.kill9().await;
    let scene = Scene { walhook: other, receiver, sql, database };
    // The server has noticed when the other one's sessions are the only ones.
    let killed = "select count(*) from walhook.node_session s
                  join pg_stat_activity a on a.pid = s.backend_pid and a.backend_start = s.backend_start
                  join walhook.node n on n.id = s.node_id where n.process_id <> ";
    scene.wait_for_count(&format!("{killed} {}", scene.walhook.process_id()), 0).await;
    let replacement = patient(Start::serve(&scene.database)).ready().await;
    wait_for_lanes(&scene, &[&scene.walhook, &replacement]).await;
    assert!(!scene.walhook.log().contains("taken this node for dead"), "{}", scene.walhook.log());
}

/// Its requests hang when it is asked to stop. Others need not wait for those to end to go on with all the rest.
#[tokio::test]
async fn a_node_that_stops_gives_its_lanes_back_as_they_run_idle() {
    let mut scene = Scene::start(ITEMS).await;
    scene.receiver.on("/t", Script::first(1, Answer::hang()));
    let retries = json!({"retry_conf": {"num_retries": 50, "interval_sec": 1, "timeout_sec": 300}});
    scene.create("t", "items", "/t", retries).await;
    scene.execute("insert into items (name) values ('a')").await;
    scene.arrivals("/t", 1).await;
    let other = Start::serve(&scene.database).ready().await;
    wait_for_lanes(&scene, &[&scene.walhook, &other]).await;
    scene.walhook.signal("TERM");
    wait_for_some_lanes(&scene, &other, 15).await;
    scene.execute("insert into items (name) select 'b' from generate_series(1, 20)").await;
    let most = "select (count(*) >= 10)::int::bigint from walhook.attempt where verdict = 'delivered'";
    scene.wait_for_count(most, 1).await;
    assert_eq!(scene.walhook.ended(), None, "it waits for its request; its log:\n{}", scene.walhook.log());
    // The request breaks off.
    let port = scene.receiver.port();
    scene.receiver = Receiver::start().await;
    assert!(scene.walhook.wait(DEADLINE).await.success(), "{}", scene.walhook.log());
    scene.receiver = Receiver::on_port(port).await;
    wait_for_lanes(&scene, &[&other]).await;
    scene.wait_for_count(DELIVERED, 21).await;
}

/// They are told by NOTIFY, where there is somebody to be told.
#[tokio::test]
async fn new_events_are_told_to_other_nodes_and_to_nobody_where_there_is_none() {
    let scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({})).await;
    let queue = scene.database.settings();
    let mut notices = queue::listen(&queue).await.expect("a session that listens");
    scene.execute("insert into items (name) values ('a')").await;
    scene.wait_for_count(DELIVERED, 1).await;
    queue::tell(&*scene.sql, Notice::Replays).await.expect("a notice");
    let mut told = Vec::new();
    while told.last() != Some(&Notice::Replays) {
        told.push(notices.next().await.expect("a notice"));
    }
    let of_events = |notice: &Notice| matches!(notice, Notice::Log { .. });
    assert!(!told.iter().any(of_events), "{told:?}");
    let other = Start::serve(&scene.database).with(&["--only", "delivery"]).spawn();
    wait_for_lanes(&scene, &[&scene.walhook, &other]).await;
    scene.execute("insert into items (name) select 'b' from generate_series(1, 20)").await;
    let head = async {
        loop {
            if let Some(Notice::Log { head: 21, .. }) = notices.next().await {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, head).await.expect("the other node to be told");
    scene.wait_for_count(DELIVERED, 21).await;
}

/// Otherwise they would find it, or send to where it sent before, until their next look some seconds later.
#[tokio::test]
async fn what_is_done_to_a_trigger_is_told_to_other_nodes() {
    let scene = Scene::start(ITEMS).await;
    let queue = scene.database.settings();
    let mut notices = queue::listen(&queue).await.expect("a session that listens");
    for is_there in [false, true] {
        scene.create("t", "items", "/t", json!({"replace": is_there})).await;
        queue::tell(&*scene.sql, Notice::Replays).await.expect("a notice");
        let told = async {
            let mut told = Vec::new();
            while told.last() != Some(&Notice::Replays) {
                told.push(notices.next().await.expect("a notice"));
            }
            told
        };
        let told = tokio::time::timeout(DEADLINE, told).await.expect("the last notice");
        assert!(told.contains(&Notice::Triggers), "{told:?}");
    }
}

/// A node that is told of new events reads the log for the triggers that have some, however many others there are.
#[tokio::test]
async fn what_is_told_of_one_trigger_costs_no_read_of_the_others() {
    const OTHERS: usize = 8;
    let scene = Scene::start(&format!("{ITEMS}; create table public.others (id int primary key)")).await;
    scene.create("busy", "items", "/busy", json!({})).await;
    for number in 0..OTHERS {
        scene.create(&format!("other_{number}"), "others", "/other", json!({})).await;
    }
    let start = Start::serve(&scene.database).with(&["--only", "delivery"]);
    let second = start.env("WALHOOK_LOG", "walhook::delivery::dispatcher=debug").spawn();
    wait_for_lanes(&scene, &[&scene.walhook, &second]).await;
    for come in [10, 20, 30] {
        scene.execute("insert into items (name) select 'a' from generate_series(1, 10)").await;
        scene.wait_for_count(DELIVERED, come).await;
    }
    let log = second.log();
    let reads = |log: &str, trigger: &str| {
        log.lines().filter(|line| line.contains("its log was read") && line.contains(trigger)).count()
    };
    assert!(reads(&log, "busy") > 0, "it took no part:\n{log}");
    assert_eq!(reads(&log, "other_"), 0, "{log}");
    // They have missed nothing.
    scene.execute("insert into others select generate_series(1, 10)").await;
    scene.wait_for_count(DELIVERED, 30 + 10 * OTHERS as i64).await;
    assert!(reads(&second.log(), "other_") > 0, "{}", second.log());
}

/// Requests are under way while their node sleeps, so long that another one takes its lanes. What it then hears of them
/// is not worth recording any more, also where it has the lanes again.
#[tokio::test]
async fn a_node_that_was_paused_loses_its_lanes_and_records_nothing_when_it_wakes() {
    let mut scene = Scene::start(ITEMS).await;
    wait_for_lanes(&scene, &[&scene.walhook]).await;
    scene.receiver.on("/t", Script::first(20, Answer::hang()));
    let retries = json!({"retry_conf": {"num_retries": 5, "interval_sec": 1, "timeout_sec": 10}});
    scene.create("t", "items", "/t", retries).await;
    scene.execute("insert into items (name) select 'a' from generate_series(1, 20)").await;
    scene.arrivals("/t", 20).await;
    scene.walhook.signal("STOP");
    let other = Start::serve(&scene.database).ready().await;
    wait_for_lanes(&scene, &[&other]).await;
    scene.execute("insert into items (name) select 'b' from generate_series(1, 20)").await;
    scene.wait_for_count(DELIVERED, 40).await;
    scene.walhook.signal("CONT");
    // Its requests' time was over when it woke.
    wait_for_lanes(&scene, &[&scene.walhook, &other]).await;
    scene.execute("insert into items (name) select 'c' from generate_series(1, 20)").await;
    scene.wait_for_count(DELIVERED, 60).await;
    assert_eq!(scene.count("select count(*) from walhook.attempt").await, 60);
    assert_eq!(scene.receiver.count(), 20 + 60);
}

/// A node through a proxy that passes nothing any more, and two that reach Postgres.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_is_replaced_and_joins_again() {
    let database = TestDatabase::create().await;
    let proxy = Proxy::start(database.port()).await;
    let sql = database.connect().await;
    sql.batch_execute(&format!("set search_path = public; {LEDGER}")).await.expect("the table");
    // Else the server may end the stream before another node does.
    database.execute(&format!("alter database {} set wal_sender_timeout = '60s'", database.name())).await;
    let walhook = Start::serve_through(&database, proxy.port()).ready().await;
    let scene = Scene { walhook, receiver: Receiver::start().await, sql, database };
    scene.create("ledger", "ledger", "/ledger", json!({})).await;
    let others = [Start::serve(&scene.database).ready().await, Start::serve(&scene.database).ready().await];
    let [second, third] = &others;
    wait_for_lanes(&scene, &[&scene.walhook, second, third]).await;
    let writers = Writers::start(&scene.database, 2, &mut Dice::from_environment());
    scene.arrivals("/ledger", 100).await;
    proxy.set(Weather::Frozen);
    wait_for_lanes(&scene, &[second, third]).await;
    // One of them captures.
    scene.arrivals("/ledger", scene.receiver.count() + 100).await;
    let took_over = |node: &Walhook| node.log().contains("ended the stream of the node that read the slot before");
    assert!(others.iter().any(took_over), "{}\n---\n{}", second.log(), third.log());
    proxy.set(Weather::Fair);
    wait_for_lanes(&scene, &[&scene.walhook, second, third]).await;
    scene.arrivals("/ledger", scene.receiver.count() + 100).await;
    writers.finish().await;
    check_log(&scene.sql, DEADLINE).await;
    check_delivered(&scene.sql, &scene.receiver, DEADLINE).await;
    // Each event was recorded as delivered by one node only.
    let twice = "select count(*) - count(distinct event_id) from walhook.attempt";
    scene.wait_for_count("select count(distinct event_id) from walhook.attempt", scene.count(EVENTS).await).await;
    assert_eq!(scene.count(twice).await, 0);
    check_order(&scene);
}

/// It counts among the others from then on, so that they leave it its lanes.
#[tokio::test]
async fn a_node_whose_registration_was_done_but_not_answered_takes_its_lanes() {
    let scene = Scene::start(ITEMS).await;
    wait_for_lanes(&scene, &[&scene.walhook]).await;
    let slowly = "create function pause() returns trigger language plpgsql as $$
                      begin perform pg_sleep(2); return new; end $$;
                  create trigger slowly after insert on walhook.node for each row execute function pause()";
    scene.execute(slowly).await;
    let proxy = Proxy::start(scene.database.port()).await;
    let cut_off = Start::serve_through(&scene.database, proxy.port()).spawn();
    let registers =
        "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()";
    scene.wait_for_count(registers, 1).await;
    proxy.set(Weather::Frozen);
    scene.wait_for_count("select count(*) from walhook.node", 2).await;
    scene.execute("drop trigger slowly on walhook.node").await;
    proxy.set(Weather::Cut);
    let has_heard = || async { cut_off.log().contains("cannot say that it lives").then_some(()).ok_or(cut_off.log()) };
    eventually("the end of the session", DEADLINE, has_heard).await;
    proxy.set(Weather::Fair);
    wait_for_lanes(&scene, &[&scene.walhook, &cut_off]).await;
    assert!(!cut_off.log().contains("taken this node for dead"), "{}", cut_off.log());
}

/// One after the other is stopped and started again while events come in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_delivers_nothing_twice() {
    // A machine that is too busy for heartbeats makes repeats as well, but those are not what this is about.
    let patient = |start: Start| start.with(&["--node-timeout", "60s"]);
    let mut scene = Scene::start_with(LEDGER, patient).await;
    scene.create("ledger", "ledger", "/ledger", json!({})).await;
    let mut other = patient(Start::serve(&scene.database)).ready().await;
    let writers = Writers::start(&scene.database, 3, &mut Dice::from_environment());
    for _ in 0..2 {
        wait_for_lanes(&scene, &[&scene.walhook, &other]).await;
        scene.arrivals("/ledger", scene.receiver.count() + 100).await;
        assert!(scene.walhook.terminate(DEADLINE).await.success(), "{}", scene.walhook.log());
        wait_for_lanes(&scene, &[&other]).await;
        scene.arrivals("/ledger", scene.receiver.count() + 100).await;
        scene.walhook = std::mem::replace(&mut other, patient(Start::serve(&scene.database)).ready().await);
    }
    writers.finish().await;
    check_log(&scene.sql, DEADLINE).await;
    let repeated = check_delivered(&scene.sql, &scene.receiver, DEADLINE).await;
    assert_eq!(repeated, 0, "{}\n---\n{}", scene.walhook.log(), other.log());
    check_order(&scene);
}

#[tokio::test]
async fn roles_can_be_spread_over_nodes() {
    let mut scene = Scene::start_with(ITEMS, |start| start.with(&["--only", "capture,api"])).await;
    let delivering = Start::serve(&scene.database).with(&["--only", "delivery"]).spawn();
    wait_for_lanes(&scene, &[&delivering]).await;
    scene.create("t", "items", "/t", json!({"enable_manual": true})).await;
    scene.execute("insert into items (name) values ('a')").await;
    let id = scene.arrivals("/t", 1).await[0].json()["id"].clone();
    let delivered = "select count(*) from walhook.attempts where verdict = 'delivered'";
    scene.wait_for_count(delivered, 1).await;
    scene.succeed("redeliver_event", json!({"event_id": id})).await;
    scene.arrivals("/t", 2).await;
    // The API goes on without the one that captures.
    let api = Start::serve(&scene.database).with(&["--only", "api"]).ready().await;
    assert!(scene.walhook.terminate(DEADLINE).await.success(), "{}", scene.walhook.log());
    scene.walhook = api;
    scene.succeed("invoke_event_trigger", json!({"name": "t", "payload": {"by": "hand"}})).await;
    scene.arrivals("/t", 3).await;
}

/// A stop that was asked for while another reason had begun one is not a second one.
#[tokio::test]
async fn one_signal_is_no_second_one_though_the_process_ends_already() {
    let mut scene = Scene::start_with(ITEMS, |start| start.with(&["--grace", "3s"])).await;
    scene.receiver.on("/t", Script::always(Answer::hang()));
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items (name) values ('a')").await;
    scene.arrivals("/t", 1).await;
    scene.database.drop_slot_in_use().await;
    let port = scene.walhook.port();
    let closed = || async {
        match tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
            Ok(_) => Err("it listens"),
            Err(_) => Ok(()),
        }
    };
    eventually("the API to end", DEADLINE, closed).await;
    scene.walhook.signal("TERM");
    assert_eq!(scene.walhook.wait(DEADLINE).await.code(), Some(3), "{}", scene.walhook.log());
    assert!(!scene.walhook.log().contains("second signal"), "{}", scene.walhook.log());
}

/// Between the beat's snapshot and its update others take the node for dead.
#[tokio::test]
async fn a_heartbeat_that_meets_its_own_burial_is_not_believed() {
    let scene = Scene::start(ITEMS).await;
    let node = queue::Node {
        id: uuid::Uuid::from_u128(7),
        host: "elsewhere".into(),
        process_id: 7,
        timeout: DEADLINE * 10,
        delivers: false,
    };
    let id = node.id;
    let registry = queue::Registry::open(&scene.database.settings(), node).await.expect("a session");
    registry.register().await.expect("a registration");
    let is_known = move |beat: &queue::Beat| beat.peers.iter().any(|peer| peer.id == id);
    assert!(is_known(&registry.beat(false).await.expect("a beat")));
    let undertaker = scene.database.connect().await;
    let bury = format!("begin; delete from walhook.node where id = '{id}'");
    undertaker.batch_execute(&bury).await.expect("a burial");
    let beating = tokio::spawn(async move { registry.beat(false).await.map(|beat| is_known(&beat)) });
    let waits = "select count(*) from pg_stat_activity
                 where application_name = 'walhook node' and wait_event_type = 'Lock'
                   and datname = current_database()";
    scene.wait_for_count(waits, 1).await;
    undertaker.batch_execute("commit").await.expect("the end");
    assert!(!beating.await.expect("no panic").expect("a beat"));
}
