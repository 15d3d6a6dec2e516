//! Reads the WAL through one slot and one publication and appends the events it makes to the queue.
//!
//! ```text
//! stream ──frames──▶ assembler ──chunks──▶ queue::LogWriter ──committed──▶ acknowledge to the server
//! (postgres)         (decode, match)       (one COPY a chunk)          └─▶ feed to delivery, in memory
//! ```
//!
//! The acknowledged position never passes a commit whose events are not durable in the queue: it is only ever set
//! from what the log writer says is committed, or from a progress row that is.

mod assembler;
pub mod backfill;
mod figures;
mod health;
mod message;
mod names;
mod pace;
mod preflight;
mod session;
mod slot;
mod take_over;
mod types;

pub use figures::{Captured, Figures};
pub use preflight::Facts;

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::slot::Sessions;
use crate::node::Member;
use crate::pgoutput::DecodeError;
use crate::postgres::{self, Class, NotReady, Settings};
use crate::queue::{self, FeedSender};

/// What capture is to read.
#[derive(Clone, Debug)]
pub struct Options {
    /// The source database.
    pub database: Settings,
    /// The queue's database, which may be the same.
    pub queue: Settings,
    /// The source's name.
    pub source: String,
    /// The slot's name: lower-case letters, digits and underscores.
    pub slot: String,
    /// The publication's name.
    pub publication: String,
    /// Columns of the larger number types become strings.
    pub stringify_numeric_types: bool,
    /// How often a message is written into the source's WAL; `None` for never.
    pub heartbeat: Option<Duration>,
    /// Have the slot follow to standbys (Postgres 17 and later).
    pub failover: bool,
    /// Go on where WAL was lost.
    pub accept_gap: bool,
}

/// Why capture stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database is not ready for walhook.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// WAL that was never read is gone.
    #[error(
        "{reason}. Changes after {from} may be lost; the gap is recorded in walhook.gap. \
         Compare what your receivers have with the tables, then start once with --accept-gap to go on from here"
    )]
    Gap {
        /// What was found.
        reason: String,
        /// The last position known to be captured.
        from: String,
    },
    /// The slot or the publication cannot be used as it is.
    #[error("{0}")]
    Unusable(String),
    /// The replication stream ended.
    #[error("the replication stream ended: {message}")]
    Stream {
        /// The transport's or the server's words.
        message: String,
        /// What to do.
        class: Class,
    },
    /// A message could not be read.
    #[error("the replication stream cannot be decoded: {0}")]
    Decode(#[from] DecodeError),
    /// The queue could not be read or written.
    #[error(transparent)]
    Queue(#[from] queue::Error),
}

impl From<postgres::Error> for Error {
    fn from(error: postgres::Error) -> Self {
        Error::Queue(error.into())
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Error::Queue(error.into())
    }
}

impl Error {
    /// Whether trying again can help.
    pub fn class(&self) -> Class {
        match self {
            Error::NotReady(_) | Error::Gap { .. } | Error::Unusable(_) => Class::Operator,
            Error::Stream { class, .. } => *class,
            // The bytes may have been damaged on the way; a reconnect reads them anew.
            Error::Decode(_) => Class::Retry,
            Error::Queue(error) => error.class(),
        }
    }
}

/// Where capture is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Connecting for the first time.
    #[default]
    Starting,
    /// Ended by this, to be tried again.
    Interrupted(String),
    /// Another node captures this source; this one takes over when it ends.
    StandingBy,
    /// The slot streams to this node.
    Streaming,
}

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Checks the database and makes what is missing: publication, slot and source.
///
/// # Errors
/// [`Error::NotReady`] lists everything missing at once; [`Error::Gap`] when WAL was lost and not accepted.
pub async fn prepare(options: &Options) -> Result<(), Error> {
    let sessions = Sessions::open(options, "walhook setup").await?;
    slot::prepare(&sessions, options, options.accept_gap).await.map(drop)
}

/// Checks what walhook needs of the database before anything is made in it.
///
/// # Errors
/// [`Error::NotReady`] lists everything missing at once.
pub async fn check(options: &Options) -> Result<Facts, Error> {
    let session = postgres::connect(&options.database, "walhook setup").await?;
    preflight::check(&*session, options).await
}

/// Captures until stopped, as a part of this node. Interruptions are waited out; what only an operator can mend is
/// returned.
///
/// # Errors
/// Only errors whose class is [`Class::Operator`].
pub async fn run(
    options: Options,
    member: Member,
    feed: FeedSender,
    state: watch::Sender<State>,
    figures: watch::Sender<Figures>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut pause = FIRST_PAUSE;
    loop {
        let result = session::run(&options, &member, &feed, &state, &figures, &stop).await;
        let Err(error) = result else {
            state.send_replace(State::Starting);
            return Ok(());
        };
        if state.send_replace(State::Interrupted(error.to_string())) == State::Streaming {
            pause = FIRST_PAUSE;
        }
        if error.class() == Class::Operator {
            return Err(error);
        }
        warn!(source = options.source, "capture interrupted: {error}; nothing is lost, trying again in {pause:?}");
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
        info!(source = options.source, "capture connects again");
    }
}
