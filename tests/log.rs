//! The log of events, and who writes it.

mod support;

use std::sync::Arc;

use bytes::Bytes;
use support::scene::Scene;
use uuid::Uuid;
use walhook::model::{Event, Lsn, Operation, Position, Subject, TableName, Timestamp};
use walhook::queue::{Chunk, LogWriter};

const DAY: u64 = 86_400;

fn event(ordinal: u64, committed_at: Timestamp) -> Event {
    Event {
        id: Uuid::new_v4(),
        trigger_id: Uuid::nil(),
        lane: 0,
        row_hash: None,
        operation: Operation::Insert,
        subject: Arc::new(Subject::Table(TableName::new("public", "items"))),
        position: Position { commit_lsn: Lsn(ordinal), ordinal },
        xid: 1,
        committed_at,
        old: None,
        new: Some(Bytes::from_static(b"{}")),
        missing: None,
        old_partial: false,
        undecided: false,
        session_variables: None,
        backfill_id: None,
        deliver_at: None,
    }
}

/// Capture was behind for days, so that there is no partition yet; the chunk that ends a large transaction has those
/// that follow it as well.
#[tokio::test]
async fn what_committed_on_the_day_after_a_large_transaction_has_its_partition() {
    let scene = Scene::start("create table items (id int)").await;
    let source: i16 = scene.value("select id from walhook.source", &[]).await;
    let mut writer = LogWriter::new(scene.database.connect().await, source, 0).await.expect("a writer");
    let day = Timestamp::now().plus_seconds(40 * DAY);
    let part = Chunk { events: vec![event(1, day)], ..Chunk::default() };
    writer.append(part).await.expect("a part of the transaction");
    let rest = vec![event(2, day), event(3, day.plus_seconds(DAY))];
    let end = Chunk { events: rest, progress: Some(Lsn(9)), ..Chunk::default() };
    let appended = writer.append(end).await.expect("its end, and the next day's");
    assert_eq!((appended.progress, appended.last_seq), (Some(Lsn(9)), 3));
    assert_eq!(scene.count("select count(*) from walhook.event").await, 3);
}
