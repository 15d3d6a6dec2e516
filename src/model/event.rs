//! One change as one trigger saw it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{Position, Subject, Timestamp};

/// An event's stable id: the same WAL always makes the same ids, so a receiver can tell repeats.
pub type EventId = Uuid;

/// One of [`LANES`] fixed shares of all events.
pub type Lane = u8;

/// Tells the rows of a trigger apart: see [`derive_row_hash`]. Two rows that share one by chance wait for each other.
pub type RowHash = i64;

/// How many lanes there are; fixed when the schema is made.
pub const LANES: Lane = 16;

/// What happened to the row or the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A row was inserted.
    Insert,
    /// A row was updated.
    Update,
    /// A row was deleted.
    Delete,
    /// The table was emptied; there are no rows.
    Truncate,
    /// `invoke_event_trigger` was called; there is no row.
    Manual,
    /// A writer made an event with `walhook.emit`; there is no row.
    Custom,
}

impl Operation {
    /// The name the payload and the event log use.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Insert => "INSERT",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Truncate => "TRUNCATE",
            Operation::Manual => "MANUAL",
            Operation::Custom => "CUSTOM",
        }
    }

    /// The operation with this name, as [`Operation::as_str`] gives it.
    pub fn from_name(name: &str) -> Option<Self> {
        use Operation::{Custom, Delete, Insert, Manual, Truncate, Update};
        [Insert, Update, Delete, Truncate, Manual, Custom].into_iter().find(|operation| operation.as_str() == name)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// An event as the log holds it. Cloning shares the row text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Stable id, see [`derive_event_id`].
    pub id: EventId,
    /// The trigger that saw the change.
    pub trigger_id: Uuid,
    /// The row's, see [`lane_of`], or the trigger's, see [`trigger_lane`].
    pub lane: Lane,
    /// The row that changed; for an update that changed the key, the row as it was called before. `None` where there is
    /// no row or it has no key.
    pub row_hash: Option<RowHash>,
    /// What happened.
    pub operation: Operation,
    /// To what: a table, the root of a partitioned one, or the type of a custom event.
    pub subject: Arc<Subject>,
    /// Where in the WAL.
    pub position: Position,
    /// The source transaction.
    pub xid: u32,
    /// When the transaction committed, by the source's clock.
    pub committed_at: Timestamp,
    /// The row before, as JSON text.
    pub old: Option<Bytes>,
    /// The row after, as JSON text; for [`Operation::Manual`] and [`Operation::Custom`] what was given.
    pub new: Option<Bytes>,
    /// Columns that belong in the payload but were not in the WAL: unchanged TOAST values without a full old row.
    pub missing: Option<Arc<[String]>>,
    /// The WAL holds only the replica identity's columns of the row before; the payload's others are not in `old`.
    pub old_partial: bool,
    /// Whether one of the trigger's `update.columns` changed could not be decided.
    pub undecided: bool,
    /// What the writer said with `walhook.set_context`, a JSON object as text. Shared by the events of a transaction.
    pub session_variables: Option<Bytes>,
    /// The backfill that sends the row; `None` for what happened just now.
    pub backfill_id: Option<Uuid>,
    /// When it is to be delivered, where that is later than its commit; only a custom event has one.
    pub deliver_at: Option<Timestamp>,
}

impl Event {
    /// Bytes of row text and context, the measure of every byte bound.
    pub fn size(&self) -> usize {
        [&self.old, &self.new, &self.session_variables].into_iter().flatten().map(Bytes::len).sum()
    }
}

#[cfg(test)]
impl Event {
    /// The insert of a row without a key, for unit tests, which set what they are about.
    pub(crate) fn example(number: u64) -> Event {
        Event {
            id: Uuid::from_u128(u128::from(number)),
            trigger_id: Uuid::from_u128(7),
            lane: 0,
            row_hash: None,
            operation: Operation::Insert,
            subject: Arc::new(Subject::Table(super::TableName::new("public", "item"))),
            position: Position { commit_lsn: super::Lsn(1), ordinal: number },
            xid: 1,
            committed_at: Timestamp(1_536_131_661_601_701),
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
}

/// An id in the shape of a UUIDv7: the commit's milliseconds, then a hash of everything that tells this event from any
/// other. `system` names the database cluster, so that a restored copy makes ids of its own.
pub fn derive_event_id(
    system: &str,
    source: &str,
    position: Position,
    trigger_id: Uuid,
    committed_at: Timestamp,
) -> EventId {
    let mut hash = Sha256::new();
    hash.update(system.as_bytes());
    hash.update([0]);
    hash.update(source.as_bytes());
    hash.update([0]);
    hash.update(position.commit_lsn.0.to_be_bytes());
    hash.update(position.ordinal.to_be_bytes());
    hash.update(trigger_id.as_bytes());
    let digest = hash.finalize();
    let mut random = [0; 10];
    random.copy_from_slice(&digest[..10]);
    uuid::Builder::from_unix_timestamp_millis(committed_at.unix_millis(), &random).into_uuid()
}

/// What a trigger's events of one row have in common. `row_key` is the text of the columns of the row's key.
pub fn derive_row_hash<'a>(trigger_id: Uuid, row_key: impl Iterator<Item = &'a [u8]>) -> RowHash {
    // FNV-1a: a few bytes once an event, and the result must be the same in every release and on every machine.
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(PRIME);
    trigger_id.as_bytes().iter().copied().for_each(&mut add);
    for part in row_key {
        part.iter().copied().for_each(&mut add);
        add(0);
    }
    // FNV mixes short keys badly; this finish (from MurmurHash3) spreads every bit over all of them.
    (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd).cast_signed()
}

/// The lane of a row's events.
pub fn lane_of(row: RowHash) -> Lane {
    ((row.cast_unsigned() >> 32) % u64::from(LANES)) as Lane
}

/// The lane of the events that have no row, and of all of a trigger's events where none may overtake another.
pub fn trigger_lane(trigger_id: Uuid) -> Lane {
    lane_of(derive_row_hash(trigger_id, std::iter::empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Lsn;

    fn id(ordinal: u64) -> EventId {
        let position = Position { commit_lsn: Lsn(7), ordinal };
        derive_event_id("1", "default", position, Uuid::from_u128(9), Timestamp(1_536_131_661_601_701))
    }

    #[test]
    fn ids_are_stable_distinct_and_shaped_as_version_7() {
        assert_eq!(id(1), id(1));
        assert_ne!(id(1), id(2));
        assert_eq!(id(1).get_version_num(), 7);
        let millis = format!("{:012x}", 1_536_131_661_601_u64);
        assert!(id(1).simple().to_string().starts_with(&millis), "{}", id(1));
    }

    #[test]
    fn a_row_keeps_its_lane_and_rows_spread_over_all_lanes() {
        let row = |key: u32| derive_row_hash(Uuid::from_u128(9), [key.to_string().as_bytes()].into_iter());
        let lane = |key| lane_of(row(key));
        assert_eq!(row(42), row(42));
        assert_ne!(row(42), row(43));
        let used: std::collections::BTreeSet<_> = (0..500).map(lane).collect();
        assert_eq!(used.len(), usize::from(LANES));
    }
}
