//! The log of events, and who writes it.

mod support;

use std::sync::Arc;

use bytes::Bytes;
use support::scene::Scene;
use uuid::Uuid;
use walhook::model::{Event, Lsn, Operation, Position, Subject, TableName, Timestamp};
use walhook::queue::{Bounds, Chunk, LogWriter, read_backlog};

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

/// Small rows, then large ones, then small ones again: a read takes as much as its bounds allow and one row more at
/// most, and where what it asked for is far larger than it looked it gives the session up.
#[tokio::test]
async fn the_log_is_read_back_whole_within_bounds_whatever_the_sizes_of_its_rows() {
    const BYTES: usize = 200_000;
    let scene = Scene::start("create table items (id int)").await;
    let source: i16 = scene.value("select id from walhook.source", &[]).await;
    let mut writer = LogWriter::new(scene.database.connect().await, source, 0).await.expect("a writer");
    let size = |seq: usize| if (40..140).contains(&seq) { 50_000 } else { 100 };
    let sized = |seq: usize| Event {
        new: Some(Bytes::from(format!("\"{}\"", "x".repeat(size(seq) - 2)))),
        ..event(seq as u64, Timestamp::now())
    };
    let events = (1..=200).map(sized).collect();
    writer.append(Chunk { events, progress: Some(Lsn(200)), ..Chunk::default() }).await.expect("an append");
    let mut session = scene.database.connect().await;
    let (mut read, mut sessions_given_up, mut reads, mut last_size) = (Vec::new(), 0, 0, 100);
    loop {
        let after = read.last().copied().unwrap_or(0);
        // As who reads does: about as many as fit.
        let rows = (BYTES / last_size + 1).min(150) as i64;
        let bounds = Bounds { after, up_to: 199, rows, bytes: BYTES as i64, floor: [0; 16] };
        let backlog = read_backlog(&mut session, Uuid::nil(), source, bounds).await.expect("a read");
        let sizes: Vec<usize> = backlog.events.iter().map(|logged| logged.event.size()).collect();
        let all_but_one: usize = sizes[..sizes.len().saturating_sub(1)].iter().sum();
        assert!(all_but_one < BYTES, "{sizes:?}");
        last_size = sizes.last().copied().unwrap_or(last_size);
        read.extend(backlog.events.iter().map(|logged| logged.seq));
        if backlog.session_is_busy {
            sessions_given_up += 1;
            session = scene.database.connect().await;
        }
        reads += 1;
        if backlog.complete {
            break;
        }
    }
    assert_eq!(read, (1..=199).collect::<Vec<i64>>());
    assert_eq!(sessions_given_up, 1, "the first large rows come after 39 small ones");
    assert!(reads < 40, "{reads} reads");
}
