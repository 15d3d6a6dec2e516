//! Every statement on walhook's own tables: the log of events, cursors, deferred events, attempts.
//!
//! This is the contract between `capture`, which appends, and `delivery`, which works the log off; nothing outside this
//! room knows that the log is a table.

mod backfill;
mod backlog;
mod batch;
mod catalogue;
mod clock;
mod copy;
mod cursor;
mod deferred;
mod encoding;
mod endpoint;
mod feed;
mod lane;
mod log;
mod node;
mod notice;
mod outcome;
mod partition;
mod preflight;
mod replay;
mod retention;
mod row;
mod slot_status;
mod source;
mod waiting;

pub use backfill::{Advanced, Backfill, advanced, end_backfill, next_backfill, start_backfill};
pub use backlog::{
    Backlog, Bounds, Stretch, dealt_with_after, explain_backlog, heads, read_backlog, triggers_with_events,
};
pub use batch::{Batch, Parked, Settled, Skipped};
pub use catalogue::{LiveTrigger, Version, activate, active_watches, adopt, read_catalogue, triggers, versions_before};
pub use clock::server_time;
pub use cursor::{CursorMove, Floor, read_cursors, write_cursors};
pub use deferred::{Deferred, DueRoom, RowVersion, due, held_rows, next_due};
pub use encoding::has_all_characters;
pub use endpoint::{EndpointDown, write_endpoints_down};
pub use feed::{FeedItem, FeedReceiver, FeedSender, Handover, Heads, Room, Uncommitted, feed};
pub use lane::{Taken, give_back_lanes, take_lanes};
pub use log::{Activation, Advance, Appended, Chunk, LogWriter};
pub use node::{Beat, Buried, Node, Peer, Purpose, Registry, own_session};
pub use notice::{Notice, Notices, listen, tell};
pub use outcome::OutcomeWriter;
pub use partition::{Partitions, ensure_partitions};
pub use preflight::check;
pub use replay::{advance_replays, forget_replay};
pub use retention::{Keeper, Retention, Round, look_after};
pub use slot_status::{SlotStatus, read_timeline, write_slot_status, write_timeline};
pub use source::{
    Progress, Registration, Source, accept_gaps, clear_failure, enrol_source, find_source, last_reader, note_failure,
    note_reader, open_gap, read_progress, record_gap, register_source, source_id, try_capture_lock, write_progress,
};
pub use waiting::{Waiting, oldest_waiting};

use uuid::Uuid;

use crate::model::{Event, EventId};
use crate::postgres;

/// The source of events that are not row changes: invoked ones. Their seq comes from `walhook.manual_seq`.
pub const MANUAL_SOURCE: i16 = 0;

/// An event with its place in the log.
#[derive(Clone, Debug)]
pub struct Logged {
    /// Counts a source's events; see [`MANUAL_SOURCE`].
    pub seq: i64,
    /// The source, as `walhook.source.id`.
    pub source_id: i16,
    /// The event.
    pub event: Event,
    /// The replay that sends it again; none the first time.
    pub replay_id: Option<Uuid>,
}

impl Logged {
    /// The event's id.
    pub fn id(&self) -> EventId {
        self.event.id
    }
}

/// What the queue could not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database did not do it.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    /// The queue's database is not ready for it.
    #[error(transparent)]
    NotReady(#[from] postgres::NotReady),
    /// A row of walhook's own tables does not read back.
    #[error("{what} in schema walhook cannot be read: {reason}; it was changed by hand or by another release")]
    Corrupt {
        /// Which row.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Error::Postgres(error.into())
    }
}

impl From<postgres::PoolError> for Error {
    fn from(error: postgres::PoolError) -> Self {
        Error::Postgres(error.into())
    }
}

impl Error {
    /// Whether trying again can help.
    pub fn class(&self) -> postgres::Class {
        match self {
            Error::Postgres(error) => error.class(),
            Error::NotReady(_) | Error::Corrupt { .. } => postgres::Class::Operator,
        }
    }
}
