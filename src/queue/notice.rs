//! What other sessions and nodes tell by NOTIFY on channel `walhook` once they committed. Each notice is a hint: behind
//! it there is a slow look, so one that is lost only costs time.

use tokio::sync::mpsc;
use tokio_postgres::GenericClient;

use super::Error;
use crate::postgres::{self, Session, Settings};

/// What was done elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Triggers were made, replaced, deleted, paused or resumed.
    Triggers,
    /// Deferred events are due or were given up.
    Deferred,
    /// A replay was asked for.
    Replays,
    /// A node came or went, or lanes were given back.
    Lanes,
    /// A source's log has events up to here.
    Log {
        /// As `walhook.source.id`.
        source_id: i16,
        /// Its last seq.
        head: i64,
    },
}

impl Notice {
    /// The notice with this payload. Newer releases may tell of more.
    fn from_payload(payload: &str) -> Option<Self> {
        match payload {
            "triggers" => Some(Notice::Triggers),
            "deferred" => Some(Notice::Deferred),
            "replays" => Some(Notice::Replays),
            "lanes" => Some(Notice::Lanes),
            other => {
                let (source_id, head) = other.strip_prefix("log ")?.split_once(' ')?;
                Some(Notice::Log { source_id: source_id.parse().ok()?, head: head.parse().ok()? })
            }
        }
    }

    fn payload(self) -> String {
        match self {
            Notice::Triggers => "triggers".to_owned(),
            Notice::Deferred => "deferred".to_owned(),
            Notice::Replays => "replays".to_owned(),
            Notice::Lanes => "lanes".to_owned(),
            Notice::Log { source_id, head } => format!("log {source_id} {head}"),
        }
    }
}

/// Tells all nodes, this one included.
///
/// # Errors
/// What Postgres said.
pub async fn tell(client: &impl GenericClient, notice: Notice) -> Result<(), Error> {
    client.execute(include_str!("../../sql/notice_send.sql"), &[&notice.payload()]).await?;
    Ok(())
}

/// A session that hears of them.
pub struct Notices {
    _session: Session,
    payloads: mpsc::Receiver<String>,
}

impl Notices {
    /// The next one; none when the session ended.
    pub async fn next(&mut self) -> Option<Notice> {
        loop {
            if let Some(notice) = Notice::from_payload(&self.payloads.recv().await?) {
                return Some(notice);
            }
        }
    }
}

/// Hears of everything that is told from now on.
///
/// # Errors
/// What Postgres said.
pub async fn listen(queue: &Settings) -> Result<Notices, Error> {
    let (session, payloads) = postgres::connect_to_listen(queue, "walhook notices").await?;
    session.batch_execute(include_str!("../../sql/notice_listen.sql")).await?;
    Ok(Notices { _session: session, payloads })
}
