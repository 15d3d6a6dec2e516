//! The test support does what the other tests trust it to do.

mod support;

use std::io::Read;
use std::time::{Duration, Instant};

use futures_util::future::Either;
use serde_json::{Value, json};
use support::clock::Clock;
use support::cluster::TestDatabase;
use support::proxy::Proxy;
use support::receiver::{Answer, Receiver, Script};
use support::wait::eventually;
use support::walhook::Start;
use tokio::net::{TcpListener, TcpStream};

const DEADLINE: Duration = Duration::from_secs(10);

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(DEADLINE).build().expect("a client")
}

async fn post(receiver: &Receiver, path: &str) -> Result<reqwest::Response, reqwest::Error> {
    client().post(receiver.url(path)).json(&json!({"path": path})).send().await
}

#[tokio::test]
async fn the_receiver_records_requests_and_answers_204() {
    let receiver = Receiver::start().await;
    assert_eq!(post(&receiver, "/a").await.expect("an answer").status(), 204);
    post(&receiver, "/b").await.expect("an answer");
    let requests = receiver.wait_for(2, DEADLINE).await;
    assert_eq!(requests[1].json(), json!({"path": "/b"}));
    assert_eq!(requests[1].header("content-type"), Some("application/json"));
    assert!(requests[0].arrived_at <= requests[1].arrived_at);
    assert_eq!(receiver.requests("/a").len(), 1);
}

#[tokio::test]
async fn the_receiver_fails_first_and_then_succeeds() {
    let receiver = Receiver::start().await;
    receiver.on("/flaky", Script::first(2, Answer::status(503).retry_after("7")).then(Answer::status(200).body("ok")));
    let first = post(&receiver, "/flaky").await.expect("an answer");
    assert_eq!((first.status().as_u16(), &first.headers()["retry-after"]), (503, &"7".parse().expect("a header")));
    assert_eq!(post(&receiver, "/flaky").await.expect("an answer").status(), 503);
    assert_eq!(post(&receiver, "/flaky").await.expect("an answer").text().await.expect("a body"), "ok");
}

#[tokio::test]
async fn the_receiver_misbehaves_as_told() {
    let receiver = Receiver::start().await;
    receiver.on("/close", Script::always(Answer::close()));
    receiver.on("/garbage", Script::always(Answer::garbage()));
    receiver.on("/broken", Script::always(Answer::broken_off()));
    receiver.on("/hang", Script::always(Answer::hang()));
    receiver.on("/slow", Script::always(Answer::default().after(Duration::from_millis(200))));
    receiver.on("/big", Script::always(Answer::mebibytes(3)));
    assert!(post(&receiver, "/close").await.is_err());
    assert!(post(&receiver, "/garbage").await.is_err());
    assert!(post(&receiver, "/broken").await.expect("a head").bytes().await.is_err());
    let mut hangs = std::pin::pin!(post(&receiver, "/hang"));
    let mut arrives = std::pin::pin!(receiver.wait_for(4, DEADLINE));
    let hung = futures_util::future::select(&mut hangs, &mut arrives).await;
    assert!(matches!(hung, Either::Right(_)), "an answer");
    assert!(tokio::time::timeout(Duration::from_millis(200), hangs).await.is_err());
    let started = Instant::now();
    assert_eq!(post(&receiver, "/slow").await.expect("an answer").status(), 204);
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert_eq!(post(&receiver, "/big").await.expect("an answer").bytes().await.expect("a body").len(), 3 << 20);
    let paths: Vec<String> = receiver.all().into_iter().map(|request| request.path).collect();
    assert_eq!(paths, ["/close", "/garbage", "/broken", "/hang", "/slow", "/big"]);
}

#[tokio::test]
async fn the_receiver_takes_thousands_of_requests_on_few_connections() {
    let (receiver, client) = (Receiver::start().await, client());
    let url = receiver.url("/many");
    for _ in 0..5_000 {
        client.post(&url).body("{}").send().await.expect("an answer");
    }
    let all = receiver.wait_for(5_000, DEADLINE).await;
    assert!(all.iter().enumerate().all(|(index, request)| request.number == index));
    assert_eq!(all.last().expect("a request").connection, 1);
}

#[tokio::test]
async fn a_dropped_receiver_refuses_connections_and_can_come_back_on_its_port() {
    let receiver = Receiver::start().await;
    let port = receiver.port();
    drop(receiver);
    let url = format!("http://127.0.0.1:{port}/");
    let refused = || async { client().get(&url).send().await.is_err().then_some(()).ok_or("still accepted") };
    eventually("the port is closed", DEADLINE, refused).await;
    let receiver = Receiver::on_port(port).await;
    assert_eq!(post(&receiver, "/").await.expect("an answer").status(), 204);
}

#[tokio::test]
#[should_panic(expected = "not within 50ms: 1 requests; 0 came")]
async fn waiting_for_what_does_not_come_says_so() {
    Receiver::start().await.wait_for(1, Duration::from_millis(50)).await;
}

#[tokio::test]
async fn a_test_database_takes_its_slot_along_when_it_goes() {
    let watcher = TestDatabase::create().await;
    let database = TestDatabase::create().await;
    let (name, slot) = (database.name().to_owned(), database.slot());
    database.execute(&format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    drop(database);
    let left = "select (select count(*) from pg_database where datname = $1)
                     + (select count(*) from pg_replication_slots where slot_name = $2)";
    let row = watcher.connect().await.query_one(left, &[&name, &slot]).await.expect("a count");
    assert_eq!(row.get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_dropped_proxy_closes_its_connections_though_the_tests_runtime_stands_still() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let proxy = Proxy::start(listener.local_addr().expect("an address").port()).await;
    let _client = TcpStream::connect(("127.0.0.1", proxy.port())).await.expect("a connection");
    let accepted = tokio::time::timeout(DEADLINE, listener.accept()).await.expect("a connection in time");
    let mut server = accepted.expect("a connection").0.into_std().expect("a socket");
    server.set_nonblocking(false).expect("a socket");
    server.set_read_timeout(Some(DEADLINE)).expect("a socket");
    // From here on nothing is awaited, so that no task of this runtime goes on.
    drop(proxy);
    assert_eq!(server.read(&mut [0]).expect("an end"), 0);
}

/// How many hours the clock of who wrote the log is ahead of ours, by its last line that is whole.
fn hours_ahead(log: &str) -> i64 {
    let time = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        line["timestamp"].as_str()?.parse::<chrono::DateTime<chrono::Utc>>().ok()
    };
    let ahead = log.lines().rev().find_map(time).expect("a line with a time") - chrono::Utc::now();
    (ahead.num_minutes() + 30).div_euclid(60)
}

#[cfg_attr(not(target_os = "linux"), ignore = "there is no libfaketime")]
#[tokio::test]
async fn a_walhooks_clock_can_be_stepped_while_it_runs() {
    let (database, clock) = (TestDatabase::create().await, Clock::ahead_by(3600));
    let mut walhook = Start::serve(&database).with_clock(&clock).ready().await;
    assert_eq!(hours_ahead(&walhook.log()), 1, "{}", walhook.log());
    clock.set_ahead_by(-7200);
    let status = walhook.terminate(DEADLINE).await;
    assert_eq!(hours_ahead(&walhook.log()), -2, "{status}, {}", walhook.log());
}
