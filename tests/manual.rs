//! `invoke_event_trigger` and `redeliver_event`.

mod support;

use serde_json::{Value, json};
use support::receiver::{Answer, Script};
use support::scene::{DEADLINE, Scene, change};
use support::wait::eventually;

const ITEMS: &str = "create table items (id int primary key, name text)";

async fn error(scene: &Scene, kind: &str, args: Value) -> (u16, String, String) {
    let (status, body) = scene.call(kind, args).await;
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    (status, text("code"), text("error"))
}

/// Status, verdict counts: what `walhook.events` says of an event.
async fn wait_for_status(scene: &Scene, id: &str, status: &str) {
    let check = || async {
        let found: String = scene.value("select status from walhook.events where id = $1::text::uuid", &[&id]).await;
        if found == status { Ok(()) } else { Err(found) }
    };
    eventually("the event's status", DEADLINE, check).await;
}

#[tokio::test]
async fn an_invoked_event_carries_its_payload_whatever_json_it_is() {
    let scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({"enable_manual": true, "headers": [{"name": "X-A", "value": "b"}]})).await;
    let payloads = [json!({"username": "jane", "n": 1.5}), json!([1, null, "ü"]), json!("text"), json!(null), json!(7)];
    for (index, payload) in payloads.into_iter().enumerate() {
        let answer = scene.succeed("invoke_event_trigger", json!({"name": "t", "payload": payload})).await;
        assert_eq!(answer.as_object().expect("an object").len(), 1, "{answer}");
        let request = &scene.arrivals("/t", index + 1).await[index];
        assert_eq!(change(request), json!(["MANUAL", null, payload]));
        assert_eq!(request.json()["id"], answer["event_id"]);
        assert_eq!(request.json()["table"], json!({"schema": "public", "name": "items"}));
        assert_eq!(request.header("x-a"), Some("b"));
        wait_for_status(&scene, answer["event_id"].as_str().expect("an id"), "delivered").await;
    }
}

#[tokio::test]
async fn an_invoked_event_outlives_a_crash() {
    let scene = Scene::start(ITEMS).await;
    scene.receiver.on("/t", Script::first(1, Answer::hang()));
    scene.create("t", "items", "/t", json!({"enable_manual": true})).await;
    let answer = scene.succeed("invoke_event_trigger", json!({"name": "t", "payload": {"a": 1}})).await;
    scene.arrivals("/t", 1).await;
    let scene = scene.crash_and_restart().await;
    assert_eq!(scene.arrivals("/t", 2).await[1].json()["id"], answer["event_id"]);
}

#[tokio::test]
async fn invoking_what_cannot_be_invoked_is_refused() {
    let scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({})).await;
    let disabled = error(&scene, "invoke_event_trigger", json!({"name": "t", "payload": {}})).await;
    assert_eq!(disabled, (400, "not-supported".into(), "manual mode is not enabled for event trigger".into()));
    let unknown = error(&scene, "invoke_event_trigger", json!({"name": "u", "payload": {}})).await;
    assert_eq!(unknown, (400, "not-exists".into(), "event trigger \"u\" does not exist".into()));
    assert_eq!(scene.count("select count(*) from walhook.event").await, 0);
}

#[tokio::test]
async fn a_delivered_event_is_sent_again_as_it_was() {
    let scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items values (1, 'a')").await;
    let first = scene.arrivals("/t", 1).await[0].json();
    let id = first["id"].as_str().expect("an id").to_owned();
    for count in 2..=3 {
        wait_for_status(&scene, &id, "delivered").await;
        let answer = scene.succeed("redeliver_event", json!({"event_id": id})).await;
        assert_eq!(answer, json!({"message": "success"}));
        assert_eq!(scene.arrivals("/t", count).await[count - 1].json(), first);
    }
    scene.wait_for_count("select count(*) from walhook.deferred", 0).await;
}

#[tokio::test]
async fn a_dead_event_gets_all_its_retries_again() {
    let scene = Scene::start(ITEMS).await;
    scene.receiver.on("/t", Script::first(4, Answer::status(500)));
    scene.create("t", "items", "/t", json!({"retry_conf": {"num_retries": 1, "interval_sec": 1}})).await;
    scene.execute("insert into items values (1, 'a')").await;
    let id = scene.arrivals("/t", 2).await[0].json()["id"].as_str().expect("an id").to_owned();
    wait_for_status(&scene, &id, "dead").await;
    scene.succeed("redeliver_event", json!({"event_id": id})).await;
    scene.arrivals("/t", 4).await;
    wait_for_status(&scene, &id, "dead").await;
    scene.succeed("pg_redeliver_event", json!({"event_id": id, "source": "default"})).await;
    let requests = scene.arrivals("/t", 5).await;
    wait_for_status(&scene, &id, "delivered").await;
    let numbers: Vec<Value> =
        requests.iter().map(|request| request.json()["delivery_info"]["current_retry"].clone()).collect();
    assert_eq!(numbers, [0, 1, 0, 1, 0]);
}

#[tokio::test]
async fn redelivering_what_is_not_there_or_under_way_is_refused() {
    let scene = Scene::start(ITEMS).await;
    scene.receiver.on("/t", Script::always(Answer::hang()));
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items values (1, 'a')").await;
    let id = scene.arrivals("/t", 1).await[0].json()["id"].clone();
    let busy = error(&scene, "redeliver_event", json!({"event_id": id})).await;
    assert_eq!(busy, (400, "busy".into(), "event is already being processed".into()));
    for unknown in ["nonsense", "", "ad4f698f-a14e-4a6d-a01b-38cd252dd8bf", "01890000-0000-7000-8000-000000000000"] {
        let answer = error(&scene, "redeliver_event", json!({"event_id": unknown})).await;
        assert_eq!(answer, (400, "not-exists".into(), "event not found".into()), "{unknown}");
    }
}

#[tokio::test]
async fn an_event_of_a_deleted_trigger_is_accepted_and_never_sent() {
    let scene = Scene::start(ITEMS).await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items values (1, 'a')").await;
    let id = scene.arrivals("/t", 1).await[0].json()["id"].clone();
    wait_for_status(&scene, id.as_str().expect("an id"), "delivered").await;
    scene.succeed("delete_event_trigger", json!({"name": "t"})).await;
    scene.succeed("redeliver_event", json!({"event_id": id})).await;
    assert_eq!(scene.count("select count(*) from walhook.deferred").await, 0);
    // A trigger of the same name does not revive it.
    scene.create("t", "items", "/t", json!({"enable_manual": true})).await;
    scene.succeed("invoke_event_trigger", json!({"name": "t", "payload": "marker"})).await;
    let requests = scene.arrivals("/t", 2).await;
    assert_eq!((requests.len(), change(&requests[1])), (2, json!(["MANUAL", null, "marker"])));
}
