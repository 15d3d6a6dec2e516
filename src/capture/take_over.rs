//! Taking a source over: the right to write its log, and the stream of its slot.

use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;
use uuid::Uuid;

use super::session::{APPEND_TIMEOUT, ended, within};
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

/// Waits for the right to write this source's log. Asks again and again instead of waiting inside Postgres, which would
/// hold a snapshot open and keep vacuum from its work. Returns false when stopped.
pub(super) async fn own_source(
    session: &Session,
    node: Uuid,
    source_id: i16,
    state: &watch::Sender<State>,
    stop: &CancellationToken,
) -> Result<bool, Error> {
    loop {
        let named = queue::own_session(&**session, node, Purpose::Source(source_id));
        let pause = if !within(APPEND_TIMEOUT, named).await? {
            // A moment after the start.
            REGISTRATION_PAUSE
        } else if within(APPEND_TIMEOUT, queue::try_capture_lock(&**session, source_id)).await? {
            return Ok(true);
        } else {
            STANDBY_PAUSE
        };
        if pause == STANDBY_PAUSE && state.send_replace(State::StandingBy) != State::StandingBy {
            info!("another node captures this source; standing by");
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(false),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Opens the stream, once the server has noticed that the last reader of the slot is gone. The source is ours, so no
/// other node can be that reader. `None` when stopped.
pub(super) async fn open_stream(
    options: &Options,
    facts: &Facts,
    from: Lsn,
    stop: &CancellationToken,
) -> Result<Option<Stream>, Error> {
    let mut pause = FIRST_SLOT_PAUSE;
    loop {
        let error = match start_stream(options, facts, from).await {
            Ok(stream) => return Ok(Some(stream)),
            Err(error) if error.sqlstate() == Some(SLOT_IN_USE) => error,
            // The next try looks at the slot through SQL first and says exactly what is wrong with it.
            Err(error) if [SLOT_MISSING, SLOT_UNUSABLE].map(Some).contains(&error.sqlstate()) => {
                return Err(ended(error));
            }
            Err(error) => return Err(error.into()),
        };
        if pause == FIRST_SLOT_PAUSE {
            info!(source = options.source, "{error}; waiting for the server to let the slot go");
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_SLOT_PAUSE),
        }
    }
}

async fn start_stream(options: &Options, facts: &Facts, from: Lsn) -> Result<Stream, postgres::Error> {
    let Options { database, slot, publication, .. } = options;
    let mut connection = Connection::connect(database, &format!("walhook capture {slot}")).await?;
    let system = connection.identify().await?;
    // Where a name leads to several servers, this may be another one than our sessions are on.
    if (&system.identifier, system.timeline) != (&facts.system_identifier, facts.timeline) {
        return Err(postgres::Error::Ended("it leads to another server than the ordinary sessions do".into()));
    }
    if options.failover {
        connection.set_failover(slot).await?;
    }
    connection.start(Start { slot, publication, from, sender_timeout: facts.sender_timeout }).await
}
