//! Backfills: existing rows of a table, read in chunks and put into the log at a place in the WAL where they are not
//! older than what the stream said of them before.
//!
//! ```text
//! reader (a task, a session of its own)              capture
//!   track ──────────────────────────────────────────▶ notes the rows that the trigger gets events of (tracker)
//!   waits until the table's writers of then are over
//!   reads a chunk, with its snapshot ───────────────▶ takes it in
//!   writes a watermark into the WAL ────stream──────▶ passes it: appends the rows, less those that have newer events
//!   ◀──────────────────────────── committed ───────── progress is in the same transaction
//! ```
//!
//! Why no row is ever older than an event before it: a transaction that the snapshot sees has its commit before the
//! watermark, so its events are before the rows. One that it does not see and that commits before the watermark was
//! tracked: at the time of the track it was not in the stream yet, or it was, and then the reader waited for it.

mod reader;
mod snapshot;
mod table;
mod tracker;

use tokio::sync::oneshot;
use uuid::Uuid;

pub(super) use reader::Reader;
use snapshot::Snapshot;
pub use table::{Table, Unreadable};
pub(super) use tracker::Tracker;

use crate::pgoutput::{Relation, Row};

/// The prefix of the logical messages that start backfills and that are watermarks.
pub(super) const PREFIX: &str = "walhook.backfill";

/// What the reader asks of capture.
pub(super) enum Request {
    /// Note from here on which rows of this table the trigger gets events of; anything noted before is forgotten.
    Track { tracker: Tracker, done: oneshot::Sender<()> },
    /// Put these rows into the log when their watermark comes by.
    Fill { chunk: Box<Chunk>, taken_in: oneshot::Sender<()> },
}

/// Rows of one table as a snapshot saw them.
pub(super) struct Chunk {
    /// The content of its watermark.
    watermark: Uuid,
    pub(super) backfill_id: Uuid,
    pub(super) trigger_id: Uuid,
    pub(super) relation: Relation,
    /// Places of the key's columns in the relation.
    key: Vec<usize>,
    pub(super) rows: Vec<Row>,
    snapshot: Snapshot,
    /// The last row that was looked at, whether it is among the rows or not.
    pub(super) last_key: Vec<String>,
    pub(super) looked_at: i64,
    pub(super) outcome: oneshot::Sender<Outcome>,
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is in the log, durably, and so is the progress.
    Taken,
    /// What the stream did meanwhile cannot be told row by row; the chunk must be read again.
    Spoiled,
    /// The trigger is not in force on this table any more.
    Gone,
}
