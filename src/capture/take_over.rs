//! Taking a source over: the right to write its log, and the stream of its slot.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;
use uuid::Uuid;

use super::session::{APPEND_TIMEOUT, ended, within};
use super::slot::{self, Prepared, Sessions};
use super::{Error, Facts, Options, State};
use crate::model::Lsn;
use crate::postgres::replication::{Connection, Start, Stream};
use crate::postgres::{self, Session};
use crate::queue::{self, Purpose};

/// SQLSTATEs of a start: another connection reads the slot; there is none; its WAL is gone.
const SLOT_IN_USE: &str = "55006";
const SLOT_MISSING: &str = "42704";
const SLOT_UNUSABLE: &str = "55000";
const FIRST_SLOT_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_SLOT_PAUSE: Duration = Duration::from_secs(5);
const STANDBY_PAUSE: Duration = Duration::from_secs(1);
/// A node registers within moments of its start.
const REGISTRATION_PAUSE: Duration = Duration::from_millis(20);
/// To look at all that a stream needs is short, but for making a slot, which waits for the transactions that run.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(600);

/// Finds out whether anything was lost and waits until the source is ours. `None` when stopped.
pub(super) async fn take_over(
    options: &Options,
    node: Uuid,
    state: &watch::Sender<State>,
    stop: &CancellationToken,
) -> Result<Option<(Sessions, Prepared)>, Error> {
    let sessions = Sessions::open(options, "walhook capture").await?;
    let mut prepared = within(PREPARE_TIMEOUT, slot::prepare(&sessions, options, false)).await?;
    let turn = own_source(&sessions.queue, node, prepared.source_id, state, stop).await?;
    match turn {
        Turn::Stopped => return Ok(None),
        // What was seen before may be long ago: the slot may be another one by now.
        Turn::Later => prepared = within(PREPARE_TIMEOUT, slot::prepare(&sessions, options, false)).await?,
        Turn::AtOnce => {}
    }
    Ok(Some((sessions, prepared)))
}

/// How a source came to be ours.
enum Turn {
    AtOnce,
    /// Another node may have had it meanwhile.
    Later,
    Stopped,
}

/// Waits for the right to write this source's log. Asks again and again instead of waiting inside Postgres, which would
/// hold a snapshot open and keep vacuum from its work.
async fn own_source(
    session: &Session,
    node: Uuid,
    source_id: i16,
    state: &watch::Sender<State>,
    stop: &CancellationToken,
) -> Result<Turn, Error> {
    let mut turn = Turn::AtOnce;
    loop {
        let named = queue::own_session(&**session, node, Purpose::Source(source_id));
        let pause = if within(APPEND_TIMEOUT, named).await?.is_none() {
            // A moment after the start, or until heartbeats pass again.
            REGISTRATION_PAUSE
        } else if within(APPEND_TIMEOUT, queue::try_capture_lock(&**session, source_id)).await? {
            return Ok(turn);
        } else {
            STANDBY_PAUSE
        };
        if pause == STANDBY_PAUSE && state.send_replace(State::StandingBy) != State::StandingBy {
            info!("another node captures this source; standing by");
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(Turn::Stopped),
            () = tokio::time::sleep(pause) => turn = Turn::Later,
        }
    }
}

/// What the stream of a source that is ours is opened with.
pub(super) struct Opening<'a> {
    pub(super) options: &'a Options,
    pub(super) facts: &'a Facts,
    pub(super) node: Uuid,
    pub(super) source_id: i16,
    /// With the source's database.
    pub(super) control: &'a Session,
    pub(super) queue: &'a Session,
    pub(super) from: Lsn,
}

impl Opening<'_> {
    /// Opens the stream, once the server has let the last reader of the slot go. The source is ours, so no other node
    /// can be that reader any more. `None` when stopped.
    pub(super) async fn open(&self, stop: &CancellationToken) -> Result<Option<Stream>, Error> {
        let source = &self.options.source;
        let mut pause = FIRST_SLOT_PAUSE;
        loop {
            let error = match self.start().await {
                Ok(stream) => {
                    self.check_place().await?;
                    // Only now: some servers would move the slot back.
                    stream.acknowledge(self.from);
                    within(APPEND_TIMEOUT, queue::note_reader(&**self.queue, self.source_id, self.node)).await?;
                    return Ok(Some(stream));
                }
                Err(error) if error.sqlstate() == Some(SLOT_IN_USE) => error,
                // The next try looks at the slot through SQL first and says exactly what is wrong with it.
                Err(error) if [SLOT_MISSING, SLOT_UNUSABLE].map(Some).contains(&error.sqlstate()) => {
                    return Err(ended(error));
                }
                Err(error) => return Err(error.into()),
            };
            if pause == FIRST_SLOT_PAUSE {
                info!(source, "{error}; waiting for the server to let the slot go");
            }
            if within(APPEND_TIMEOUT, self.end_last_reader()).await? {
                info!(source, "ended the stream of the node that read the slot before");
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_SLOT_PAUSE),
            }
        }
    }

    /// The last reader may be paused, or cut off: its stream would stand until `wal_sender_timeout`. Only that of the
    /// node that is known to have read for this queue is ended.
    async fn end_last_reader(&self) -> Result<bool, Error> {
        let Some(node) = queue::last_reader(&**self.queue, self.source_id).await? else { return Ok(false) };
        let sql = include_str!("../../sql/slot_free.sql");
        Ok(self.control.execute(sql, &[&self.options.slot, &stream_name(node)]).await? > 0)
    }

    /// Whoever read the slot while it was waited for may have moved it on: the server starts silently where it is. The
    /// next look finds the gap; by now the slot is ours, and nobody else moves it.
    async fn check_place(&self) -> Result<(), Error> {
        let slot = within(APPEND_TIMEOUT, slot::find_slot(self.control, &self.options.slot)).await?;
        match slot.and_then(|slot| slot.confirmed).filter(|confirmed| *confirmed > self.from) {
            Some(confirmed) => Err(ended(format!("somebody moved the slot to {confirmed} while it was waited for"))),
            None => Ok(()),
        }
    }

    async fn start(&self) -> Result<Stream, postgres::Error> {
        let Options { database, slot, publication, .. } = self.options;
        let name = format!("{}{slot}", stream_name(self.node));
        let mut connection = Connection::connect(database, &name).await?;
        let system = connection.identify().await?;
        // Where a name leads to several servers, this may be another one than our sessions are on.
        if (&system.identifier, system.timeline) != (&self.facts.system_identifier, self.facts.timeline) {
            return Err(postgres::Error::Ended("it leads to another server than the ordinary sessions do".into()));
        }
        if self.options.failover {
            connection.set_failover(slot).await?;
        }
        let (from, sender_timeout) = (self.from, self.facts.sender_timeout);
        connection.start(Start { slot, publication, from, sender_timeout }).await
    }
}

/// How the name of a node's stream begins, as the server shows it. The slot's name comes behind, as far as there is
/// room.
fn stream_name(node: Uuid) -> String {
    format!("walhook capture {:08x} ", node.as_fields().0)
}
