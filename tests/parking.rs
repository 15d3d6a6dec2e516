//! Events that wait behind an earlier one of their row.

mod support;

use serde_json::json;
use support::receiver::{Answer, Script};
use support::scene::Scene;
use walhook::model::{LaneSet, Timestamp};
use walhook::queue::{Batch, OutcomeWriter, Parked};

const ITEMS: &str = "create table items (id int primary key)";

/// Whatever is known in memory: nobody would release it, and those that wait behind it would wait for ever.
#[tokio::test]
async fn an_event_that_waits_for_its_retry_is_not_parked() {
    let scene = Scene::start(ITEMS).await;
    scene.receiver.on("/t", Script::always(Answer::status(500)));
    scene.create("t", "items", "/t", json!({"retry_conf": {"num_retries": 9, "interval_sec": 3600}})).await;
    scene.execute("insert into items values (1)").await;
    let retries = "select count(*) from walhook.deferred where reason = 'retry'";
    scene.wait_for_count(retries, 1).await;
    let event = "select id, trigger_id, source_id, seq, lane, row_hash,
                        (extract(epoch from committed_at) * 1000000)::bigint from walhook.event";
    let row = scene.sql.query_one(event, &[]).await.expect("the event");
    let parked = Parked {
        event_id: row.get(0),
        trigger_id: row.get(1),
        source_id: row.get(2),
        seq: row.get(3),
        lane: row.get::<_, i16>(4) as u8,
        committed_at: Timestamp(row.get(6)),
        row: row.get(5),
    };
    let mut writer = OutcomeWriter::new(scene.database.connect().await).await.expect("a writer");
    let (mut batch, mut later) = (Batch { parked: vec![parked], ..Batch::default() }, Batch::default());
    writer.record(&mut batch, &mut later, LaneSet::ALL).await.expect("nothing to be done");
    assert_eq!(scene.count(retries).await, 1);
}
