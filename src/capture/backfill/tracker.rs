//! Which rows of a table the stream told something about while a chunk of them was read. No I/O.

use std::collections::HashSet;

use tokio::sync::oneshot;
use uuid::Uuid;

use super::{Chunk, Outcome};
use crate::matching::row_key;

/// Bounds of what is noted between two chunks. What is more spoils the chunk, which is then read again.
const MAX_KEYS: usize = 100_000;
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// One trigger's events on one table.
pub(in crate::capture) struct Tracker {
    trigger_id: Uuid,
    relation: u32,
    key: Vec<String>,
    /// The rows by transaction and key; only of transactions that the last chunk's snapshot does not see.
    told: Vec<(u32, Vec<u8>)>,
    bytes: usize,
    spoiled: bool,
    chunk: Option<Box<Chunk>>,
    /// Of the chunk whose events wait for their commit.
    outcome: Option<oneshot::Sender<Outcome>>,
}

impl Tracker {
    pub(super) fn new(trigger_id: Uuid, relation: u32, key: Vec<String>) -> Tracker {
        let (told, bytes, spoiled) = (Vec::new(), 0, false);
        Tracker { trigger_id, relation, key, told, bytes, spoiled, chunk: None, outcome: None }
    }

    /// Takes a chunk in. What its snapshot sees need not be remembered: every later one sees it, too.
    pub(in crate::capture) fn expect(&mut self, chunk: Box<Chunk>) {
        self.told.retain(|(xid, _)| !chunk.snapshot.sees(*xid));
        self.bytes = self.told.iter().map(|(_, key)| key.len()).sum();
        self.chunk = Some(chunk);
    }

    /// Whether a change is to be [noted](Self::note), by its table and transaction.
    pub(in crate::capture) fn minds(&self, relation: u32, xid: u32) -> bool {
        let seen = || self.chunk.as_ref().is_some_and(|chunk| chunk.snapshot.sees(xid));
        relation == self.relation && !self.spoiled && !seen()
    }

    /// The trigger whose events count.
    pub(in crate::capture) fn trigger_id(&self) -> Uuid {
        self.trigger_id
    }

    /// The columns of the key.
    pub(in crate::capture) fn key(&self) -> &[String] {
        &self.key
    }

    /// The trigger got an event of the row that had this key. Without a key it may be any row.
    pub(in crate::capture) fn note(&mut self, xid: u32, key: Option<Vec<u8>>) {
        match key {
            Some(key) if self.told.len() < MAX_KEYS && self.bytes < MAX_BYTES => {
                self.bytes += key.len();
                self.told.push((xid, key));
            }
            _ => {
                self.spoiled = true;
                self.told = Vec::new();
            }
        }
    }

    /// The chunk that this watermark is for, with the rows that are not superseded, and how many are. `None` where the
    /// watermark is not for it, or where it is spoiled; then the reader knows.
    pub(in crate::capture) fn pass(&mut self, watermark: &[u8]) -> Option<(Box<Chunk>, i64)> {
        let chunk = self.chunk.take_if(|chunk| chunk.watermark.to_string().as_bytes() == watermark)?;
        if self.spoiled {
            // A reader that is gone does not mind.
            let _ = chunk.outcome.send(Outcome::Spoiled);
            return None;
        }
        let mut chunk = chunk;
        let told: HashSet<&[u8]> =
            self.told.iter().filter(|(xid, _)| !chunk.snapshot.sees(*xid)).map(|(_, key)| key.as_slice()).collect();
        let before = chunk.rows.len();
        if !told.is_empty() {
            let key = std::mem::take(&mut chunk.key);
            chunk.rows.retain(|row| {
                let row_key = row_key(row.tuple(), key.iter().map(|place| Some(*place)));
                row_key.is_some_and(|row_key| !told.contains(row_key.as_slice()))
            });
        }
        let superseded = before - chunk.rows.len();
        Some((chunk, superseded as i64))
    }

    /// The chunk's events were handed to the log.
    pub(in crate::capture) fn await_commit(&mut self, outcome: oneshot::Sender<Outcome>) {
        self.outcome = Some(outcome);
    }

    /// The commit is done.
    pub(in crate::capture) fn committed(&mut self) {
        if let Some(outcome) = self.outcome.take() {
            let _ = outcome.send(Outcome::Taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Snapshot;
    use super::*;
    use crate::model::TableName;
    use crate::pgoutput::{Column, Identity, Relation, Row};

    fn row(id: &str) -> Row {
        Row::of([Some(id.as_bytes()), None].into_iter())
    }

    fn key(id: &str) -> Option<Vec<u8>> {
        row_key(row(id).tuple(), [Some(0)].into_iter())
    }

    fn chunk(ids: &[&str], snapshot: &str) -> (Box<Chunk>, oneshot::Receiver<Outcome>, String) {
        let (outcome, told) = oneshot::channel();
        let column = |name: &str| Column { name: name.into(), type_id: 25, in_identity: true };
        let relation = Relation {
            id: 7,
            table: TableName::new("public", "t"),
            identity: Identity::Full,
            columns: vec![column("id"), column("name")],
        };
        let chunk = Chunk {
            watermark: Uuid::new_v4(),
            backfill_id: Uuid::from_u128(2),
            trigger_id: Uuid::from_u128(1),
            relation,
            key: vec![0],
            rows: ids.iter().map(|id| row(id)).collect(),
            snapshot: Snapshot::parse(snapshot).expect("a snapshot"),
            last_key: Vec::new(),
            looked_at: 0,
            outcome,
        };
        let watermark = chunk.watermark.to_string();
        (Box::new(chunk), told, watermark)
    }

    fn tracker() -> Tracker {
        Tracker::new(Uuid::from_u128(1), 7, vec!["id".into()])
    }

    #[test]
    fn rows_with_events_of_transactions_that_the_snapshot_does_not_see_are_left_out() {
        let mut tracker = tracker();
        tracker.note(9, key("1"));
        tracker.note(10, key("2"));
        let (chunk, _outcome, watermark) = chunk(&["1", "2", "3", "4", "5"], "10:12:10");
        tracker.expect(chunk);
        assert!(!tracker.minds(7, 11) && tracker.minds(7, 12) && tracker.minds(7, 10) && !tracker.minds(8, 12));
        tracker.note(12, key("4"));
        assert!(tracker.pass(b"of somebody else").is_none());
        let (chunk, superseded) = tracker.pass(watermark.as_bytes()).expect("the chunk");
        assert_eq!((chunk.rows, superseded), (vec![row("1"), row("3"), row("5")], 2));
        assert!(tracker.pass(watermark.as_bytes()).is_none(), "once");
    }

    #[test]
    fn what_one_snapshot_does_not_see_counts_for_the_next_one_too() {
        let mut tracker = tracker();
        let (first, _outcome, watermark) = chunk(&["1"], "10:10:");
        tracker.expect(first);
        tracker.note(10, key("2"));
        tracker.note(11, key("3"));
        tracker.pass(watermark.as_bytes()).expect("the chunk");
        let (second, _outcome, watermark) = chunk(&["2", "3"], "10:12:10");
        tracker.expect(second);
        let (chunk, superseded) = tracker.pass(watermark.as_bytes()).expect("the chunk");
        assert_eq!((chunk.rows, superseded), (vec![row("3")], 1));
    }

    #[test]
    fn what_cannot_be_told_row_by_row_spoils_the_chunk() {
        for spoil in [
            |tracker: &mut Tracker| tracker.note(12, None),
            |tracker: &mut Tracker| (0..=MAX_KEYS).for_each(|id| tracker.note(12, key(&id.to_string()))),
            |tracker: &mut Tracker| (0..3).for_each(|_| tracker.note(12, key(&"x".repeat(MAX_BYTES / 2)))),
        ] {
            let mut tracker = tracker();
            let (chunk, mut outcome, watermark) = chunk(&["no such id"], "10:10:");
            tracker.expect(chunk);
            spoil(&mut tracker);
            assert!(tracker.pass(watermark.as_bytes()).is_none());
            assert_eq!(outcome.try_recv(), Ok(Outcome::Spoiled));
        }
    }
}
