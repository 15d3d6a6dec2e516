//! Several events in one request: `batch`.

mod support;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use support::load::Dice;
use support::metrics::Page;
use support::receiver::{Answer, Request, Script};
use support::scene::{DEADLINE, Scene};
use support::wait::eventually;
use support::walhook::Start;

const ITEMS: &str = "create table items (id int primary key, note text)";
const MINUTE: u32 = 60_000;

/// The new rows' ids in a request's array, in its order.
fn ids(request: &Request) -> Vec<i64> {
    let Value::Array(events) = request.json() else { panic!("no array: {request:?}") };
    events.iter().map(|event| event["event"]["data"]["new"]["id"].as_i64().expect("an id")).collect()
}

/// Waits until so many requests came to a path; gives the ids in each.
async fn batches(scene: &Scene, path: &str, count: usize) -> Vec<Vec<i64>> {
    scene.arrivals(path, count).await.iter().map(ids).collect()
}

/// An answer that refuses events of this batch, by the ids of their rows.
fn refusal(request: &Request, refused: impl Fn(i64) -> bool) -> Answer {
    let Value::Array(events) = request.json() else { panic!("no array: {request:?}") };
    let refused = events.iter().filter(|event| event["event"]["data"]["new"]["id"].as_i64().is_some_and(&refused));
    let items: Vec<Value> = refused.map(|event| json!({"itemIdentifier": event["id"]})).collect();
    Answer::status(200).body(&json!({"batchItemFailures": items}).to_string())
}

async fn insert(scene: &Scene, from: i64, to: i64) {
    scene.execute(&format!("insert into items select generate_series({from}, {to})")).await;
}

async fn wait_for_status(scene: &Scene, trigger: &str, status: &str, count: i64) {
    let query = format!("select count(*) from walhook.events where trigger = '{trigger}' and status = '{status}'");
    scene.wait_for_count(&query, count).await;
}

/// Waits until as many events of a trigger were accepted as there are.
async fn wait_for_all(scene: &Scene, trigger: &str) {
    let query = format!("select count(*) from walhook.events where trigger = '{trigger}' and status <> 'delivered'");
    scene.wait_for_count(&query, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_full_or_wait_and_hold_what_single_requests_would() {
    let scene = Scene::start(ITEMS).await;
    // One at a time, so that they come in their order.
    let batch =
        |events: u32, wait: u32| json!({"batch": {"max_events": events, "max_wait_ms": wait}, "max_in_flight": 1});
    scene.create("full", "items", "/full", batch(3, MINUTE)).await;
    scene.create("soon", "items", "/soon", batch(1000, 20)).await;
    scene.create("single", "items", "/single", json!({})).await;
    insert(&scene, 1, 7).await;
    assert_eq!(batches(&scene, "/full", 2).await, [[1, 2, 3], [4, 5, 6]]);
    wait_for_all(&scene, "soon").await;
    let sent = scene.receiver.requests("/soon");
    assert_eq!(sent.iter().flat_map(ids).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);

    // The elements are the payloads of single requests, less what names trigger and event.
    let mut elements: Vec<Value> =
        sent.iter().flat_map(|request| request.json().as_array().expect("an array").clone()).collect();
    let mut payloads: Vec<Value> = scene.arrivals("/single", 7).await.iter().map(Request::json).collect();
    payloads.sort_by_key(|payload| payload["event"]["data"]["new"]["id"].as_i64());
    for payload in elements.iter_mut().chain(&mut payloads) {
        (payload["id"], payload["trigger"]) = (json!(null), json!(null));
    }
    assert_eq!(elements, payloads);
    for request in &sent {
        let (events, count) = (ids(request).len().to_string(), request.header("walhook-batch"));
        assert_eq!((count, request.header("content-type")), (Some(events.as_str()), Some("application/json")));
    }
    // The attempts of a request have its start in common.
    let requests = "select count(distinct started_at) from walhook.attempts where trigger = 'soon'";
    assert_eq!(scene.count(requests).await, sent.len() as i64);

    // What is counted is events, each once.
    let page = Page::scrape(&scene.walhook, "none").await;
    assert_eq!(page.value("walhook_delivered_events_total", &[("source", "default"), ("trigger", "soon")]), 7.0);

    // What waits for more is not lost in a crash, nor sent before its time by what comes after it.
    wait_for_status(&scene, "full", "delivered", 6).await;
    let scene = scene.crash_and_restart().await;
    scene.settle().await;
    assert_eq!(scene.receiver.requests("/full").len(), 2);
    insert(&scene, 8, 8).await;
    scene.settle().await;
    insert(&scene, 9, 9).await;
    assert_eq!(batches(&scene, "/full", 3).await[2], [7, 8, 9]);

    // A trigger that sends no batches any more sends what was gathered.
    insert(&scene, 10, 11).await;
    scene.settle().await;
    scene.create("full", "items", "/plain", json!({"replace": true})).await;
    let plain: Vec<Value> = scene.arrivals("/plain", 2).await.iter().map(Request::json).collect();
    let mut plain: Vec<_> = plain.iter().map(|body| body["event"]["data"]["new"]["id"].as_i64()).collect();
    plain.sort_unstable();
    assert_eq!(plain, [Some(10), Some(11)]);
    wait_for_all(&scene, "full").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_not_larger_than_asked_for_but_with_a_single_event() {
    const MOST: usize = 4096;
    let scene = Scene::start(ITEMS).await;
    let batch = json!({"max_events": 100, "max_wait_ms": 20, "max_bytes": MOST});
    scene.create("t", "items", "/t", json!({"batch": batch})).await;
    let rows = "insert into items select id, repeat('x', case id when 7 then 9000 else 600 end)
                from generate_series(1, 20) id";
    scene.execute(rows).await;
    wait_for_status(&scene, "t", "delivered", 20).await;
    let sent = scene.receiver.requests("/t");
    for request in &sent {
        assert!(request.body.len() <= MOST || ids(request) == [7], "{} bytes: {request:?}", request.body.len());
    }
    assert!(sent.iter().any(|request| ids(request).len() > 1), "some fit in together");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_may_refuse_some_and_only_those_come_again() {
    let scene = Scene::start(ITEMS).await;
    let mut refused = false;
    scene.receiver.judge("/some", move |request| {
        let is_first = !std::mem::replace(&mut refused, true);
        refusal(request, |id| is_first && [2, 4].contains(&id))
    });
    let unknown = r#"{"batchItemFailures": [{"itemIdentifier": "4"}]}"#;
    scene.receiver.on("/unknown", Script::first(1, Answer::status(200).body(unknown)));
    scene.receiver.on("/down", Script::first(4, Answer::status(503)));
    let retries = json!({"num_retries": 5, "interval_sec": 1, "timeout_sec": 30});
    let args = json!({"batch": {"max_events": 5, "max_wait_ms": MINUTE}, "retry_conf": retries});
    for name in ["some", "unknown"] {
        scene.create(name, "items", &format!("/{name}"), args.clone()).await;
    }
    let quick = json!({"batch": {"max_events": 5, "max_wait_ms": 0}, "retry_conf": retries, "max_in_flight": 1});
    scene.create("down", "items", "/down", quick.clone()).await;
    insert(&scene, 1, 5).await;
    scene.arrivals("/some", 1).await;
    wait_for_status(&scene, "some", "delivered", 3).await;
    wait_for_status(&scene, "some", "retrying", 2).await;
    let errors = "select count(*) from walhook.attempts where trigger = 'some' and verdict = 'retry' and number = 0
                  and status = 200 and error = 'this event of the batch is refused' and response like '%itemIdent%'";
    assert_eq!(scene.count(errors).await, 2);
    // An id that was not sent tells that the answer is not to be trusted: none of its events counts as accepted.
    let errors = "select count(*) from walhook.attempts where trigger = 'unknown' and verdict = 'retry'";
    scene.wait_for_count(errors, 5).await;
    assert_eq!(batches(&scene, "/unknown", 2).await.len(), 2);
    wait_for_all(&scene, "unknown").await;
    // Three more make the batch of those that are tried again full.
    insert(&scene, 6, 8).await;
    wait_for_status(&scene, "some", "delivered", 8).await;
    let sent = batches(&scene, "/some", 2).await;
    assert_eq!(sent, [vec![1, 2, 3, 4, 5], vec![2, 4, 6, 7, 8]]);
    let retries: Vec<Value> = scene.receiver.requests("/some")[1].json().as_array().expect("an array").clone();
    let retries: Vec<_> = retries.iter().map(|event| event["delivery_info"]["current_retry"].as_i64()).collect();
    assert_eq!(retries, [Some(1), Some(1), Some(0), Some(0), Some(0)]);
    // A batch is one failure of its endpoint: four of them make no outage, and spend the events' retries.
    wait_for_all(&scene, "down").await;
    assert_eq!(scene.walhook.log().matches("the endpoint is down").count(), 0);
}

/// A `Retry-After` buys an attempt even without retries, and a 413 that is a matter of time is no reason to look for a
/// bad event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_puts_off_the_whole_batch() {
    let scene = Scene::start(ITEMS).await;
    let later = [413, 429].map(|status| Answer::status(status).retry_after("1"));
    scene.receiver.on("/t", Script::each(later.into()));
    let batch = json!({"max_events": 5, "max_wait_ms": MINUTE});
    scene.create("t", "items", "/t", json!({"batch": batch, "retry_conf": {"num_retries": 0}})).await;
    insert(&scene, 1, 5).await;
    let sent = scene.arrivals("/t", 3).await;
    for (retry, request) in sent.iter().enumerate() {
        assert_eq!(ids(request), [1, 2, 3, 4, 5]);
        let Value::Array(events) = request.json() else { panic!("no array: {request:?}") };
        assert!(events.iter().all(|event| event["delivery_info"]["current_retry"] == retry), "{request:?}");
    }
    for pair in sent.windows(2) {
        let pause = pair[1].arrived_at.duration_since(pair[0].arrived_at).expect("in order");
        assert!(pause >= Duration::from_millis(995), "after {pause:?}");
    }
    wait_for_all(&scene, "t").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_event_is_found_and_pays_alone() {
    let scene = Scene::start(ITEMS).await;
    scene.receiver.judge("/bad", |request| {
        let is_bad = ids(request).iter().any(|id| [11, 40].contains(id));
        Answer::status(if is_bad { 400 } else { 204 })
    });
    scene.receiver.judge("/small", |request| Answer::status(if ids(request).len() > 4 { 413 } else { 204 }));
    // No retries: whoever had to pay for the bad ones would be dead.
    let no_retries = json!({"num_retries": 0, "interval_sec": 1, "timeout_sec": 30});
    for ordering in ["row", "trigger", "none"] {
        let args = |events: u32| {
            let batch = json!({"max_events": events, "max_wait_ms": 50});
            json!({"batch": batch, "retry_conf": no_retries, "ordering": ordering})
        };
        scene.create(&format!("bad_{ordering}"), "items", "/bad", args(32)).await;
        scene.create(&format!("small_{ordering}"), "items", "/small", args(20)).await;
    }
    insert(&scene, 1, 60).await;
    for ordering in ["row", "trigger", "none"] {
        wait_for_status(&scene, &format!("bad_{ordering}"), "delivered", 58).await;
        wait_for_status(&scene, &format!("bad_{ordering}"), "dead", 2).await;
        wait_for_status(&scene, &format!("small_{ordering}"), "delivered", 60).await;
    }
    let dead = "select array_agg(id order by id) from (select distinct (new ->> 'id')::int as id from walhook.events
                where status = 'dead' and last_status = 400 and attempts = 1) dead";
    assert_eq!(scene.value::<Vec<i32>>(dead, &[]).await, [11, 40]);
    // Once for each event of each trigger, and no more: what was sent in vain counts for nobody.
    assert_eq!(scene.count("select count(*) from walhook.attempts").await, 6 * 60);
    assert!(scene.walhook.log().contains("answered 413 to a batch"), "{}", scene.walhook.log());
}

/// What a receiver knows that takes the events of an array one after the other.
#[derive(Default)]
struct Book {
    /// Each row's accepted events.
    accepted: HashMap<i64, i64>,
    overtaking: Vec<(i64, i64)>,
    refusals: usize,
    largest: usize,
}

impl Book {
    /// Refuses all, some or none of a batch, or breaks off. An event whose row was refused before in the same batch is
    /// not looked at: it comes again.
    fn answer(&mut self, request: &Request, dice: &mut Dice) -> Answer {
        let Value::Array(events) = request.json() else { panic!("no array: {request:?}") };
        self.largest = self.largest.max(events.len());
        let (mut refused, mut rows) = (Vec::new(), HashSet::new());
        let fails = dice.below(6) == 0;
        for event in &events {
            let new = &event["event"]["data"]["new"];
            let (id, n) = (new["id"].as_i64().expect("an id"), new["n"].as_i64().expect("a count"));
            if rows.contains(&id) {
                continue;
            }
            let accepted = self.accepted.entry(id).or_insert(0);
            if n > *accepted {
                self.overtaking.push((id, n));
            }
            if fails || dice.below(12) == 0 {
                rows.insert(id);
                refused.push(json!({"itemIdentifier": event["id"]}));
                self.refusals += 1;
            } else if n == *accepted {
                *accepted += 1;
            }
        }
        match (fails, dice.below(3)) {
            (false, _) => Answer::status(200).body(&json!({"batchItemFailures": refused}).to_string()),
            (true, 0) => Answer::status(500),
            (true, 1) => Answer::close(),
            (true, _) => Answer::status(400),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_row_keep_their_order_through_refusals_and_kills() {
    const ROWS: i64 = 8;
    const UPDATES: usize = 120;
    let mut dice = Dice::from_environment();
    let scene = Scene::start("create table accounts (id int primary key, n int not null default 0)").await;
    let conf = json!({"num_retries": 1000, "interval_sec": 0, "timeout_sec": 30});
    let mut books = Vec::new();
    for ordering in ["row", "trigger"] {
        let (book, mut dice) = (Arc::new(Mutex::new(Book::default())), dice.split());
        books.push((ordering, book.clone()));
        let path = format!("/{ordering}");
        scene.receiver.judge(&path, move |request| book.lock().expect("the book").answer(request, &mut dice));
        let batch = json!({"max_events": 25, "max_wait_ms": 20});
        let args = json!({"retry_conf": conf, "batch": batch, "ordering": ordering});
        scene.create(ordering, "accounts", &path, args).await;
    }
    scene.execute(&format!("insert into accounts select generate_series(1, {ROWS})")).await;
    let session = scene.database.connect().await;
    let writer = tokio::spawn(async move {
        for _ in 0..UPDATES {
            let (row, times) = (1 + dice.below(ROWS as u64), 1 + dice.below(4));
            let update = format!("update public.accounts set n = n + 1 where id = {row};");
            let sql = format!("begin; {} commit", update.repeat(times as usize));
            session.batch_execute(&sql).await.expect("the application's write");
        }
    });
    let Scene { mut walhook, receiver, sql, database } = scene;
    let port = walhook.port();
    for kill in 1..=2 {
        receiver.wait_for(kill * 12, DEADLINE).await;
        walhook.kill9().await;
        walhook = Start::serve(&database).on_port(port).ready().await;
    }
    writer.await.expect("the writer");
    let scene = Scene { walhook, receiver, sql, database };
    for (ordering, book) in books {
        let missing = || async {
            let rows = scene.sql.query("select id::bigint, n::bigint + 1 from accounts", &[]).await.expect("rows");
            let book = book.lock().expect("the book");
            let done = |id: i64| book.accepted.get(&id).copied().unwrap_or(0);
            let missing: Vec<(i64, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            let missing: Vec<_> = missing.into_iter().filter(|(id, events)| done(*id) < *events).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("{ordering}: {missing:?} of {:?}", book.accepted)) }
        };
        eventually("accepted events", DEADLINE * 2, missing).await;
        let book = book.lock().expect("the book");
        assert_eq!(book.overtaking, [], "{ordering}: came before an earlier event was accepted");
        assert!(book.refusals > 0 && book.largest > 1, "{ordering}: {} refused, {}", book.refusals, book.largest);
    }
    wait_for_all(&scene, "row").await;
    wait_for_all(&scene, "trigger").await;
    assert_eq!(scene.count("select count(*) from walhook.deferred").await, 0);
}
