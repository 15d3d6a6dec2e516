//! Sends events to webhooks and records what came of it.
//!
//! ```text
//! feed ─────┐                    ┌─▶ attempt (a task each) ─┐
//! log ──────┼─▶ dispatcher ──────┤                          ├─▶ dispatcher ─▶ recorder ─▶ attempt log,
//! deferred ─┘   (one task)       └─▶ attempt ───────────────┘                 (lanes)     deferred, cursors
//! ```
//!
//! The dispatcher is one task that holds all state and does no I/O itself. An event counts as done only after the
//! recorder says that its outcome is durable; a crash before that sends it again, with the same id.

mod attempt;
mod batch;
mod breaker;
mod bucket;
mod budget;
mod busy;
mod connector;
mod dispatcher;
mod endpoint;
mod failures;
mod fetch;
mod figures;
mod gate;
mod hand;
mod handle;
mod http;
mod intake;
mod letter;
mod limiter;
mod notices;
mod outages;
mod pause;
mod payload;
mod recorder;
mod remarks;
mod replays;
mod retry;
mod rows;
mod tenure;
mod tracker;
mod trigger_queue;

pub use endpoint::Endpoint;
pub use figures::{Counts, DURATIONS_MICROS, Figures, OUTCOMES, TriggerFigures};
pub use handle::{Command, Handle, handle};
pub use http::Client;
pub use payload::body;
pub use retry::decide;

use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::model::Environment;
use crate::node::Member;
use crate::postgres::{Pool, Settings};
use crate::queue::FeedReceiver;

/// What delivery works with.
pub struct Parts {
    /// The queue's database, for the session that owns the lanes.
    pub database: Settings,
    /// Sessions for reading the log back.
    pub pool: Pool,
    /// Where placeholders of URLs and headers are looked up.
    pub environment: Environment,
    /// Events handed over in memory by a capture in the same process.
    pub feed: Option<FeedReceiver>,
    /// The handle whose end `commands` is, for what other processes tell.
    pub handle: Handle,
    /// Questions and hints from the rest of the process.
    pub commands: mpsc::Receiver<Command>,
    /// How long requests under way may go on after the stop.
    pub grace: Duration,
    /// The longest that a webhook may ask to be left alone with `Retry-After`.
    pub longest_retry_after: Duration,
    /// This node among the others.
    pub member: Member,
    /// Requests under way at a time, of all triggers together.
    pub max_in_flight: usize,
}

/// Why delivery cannot work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The HTTP client cannot be made.
    #[error("no HTTP client: {0}; install the package ca-certificates")]
    Client(#[from] std::io::Error),
}

/// Delivers until stopped; then lets the requests under way end, records them, and returns.
///
/// # Errors
/// [`Error::Client`]. Everything later is waited out.
pub async fn run(parts: Parts, stop: CancellationToken) -> Result<(), Error> {
    let client = Client::new(parts.member.clock.clone())?;
    let replay_asked = Notify::new();
    let (handle, member) = (parts.handle.clone(), parts.member.clone());
    let notices = notices::run(parts.database.clone(), handle, member, &replay_asked, stop.clone());
    let replays = replays::run(parts.pool.clone(), &replay_asked, stop.clone());
    let dispatcher = dispatcher::Dispatcher::new(parts, client).run(stop);
    tokio::join!(dispatcher, notices, replays);
    Ok(())
}
