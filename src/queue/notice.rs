//! What other sessions and nodes tell by NOTIFY on channel `walhook` once they committed. Each notice is a hint: behind
//! it there is a slow look, so one that is lost only costs time.

use tokio::sync::mpsc;
use tokio_postgres::GenericClient;

use super::Error;
use crate::postgres::{self, Session, Settings};

/// What was done elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Triggers were paused or resumed.
    Triggers,
    /// Deferred events are due or were given up.
    Deferred,
    /// A replay was asked for.
    Replays,
    /// A node came or went, or lanes were given back.
    Lanes,
}

impl Notice {
    /// The notice with this payload. Newer releases may tell of more.
    fn from_payload(payload: &str) -> Option<Self> {
        match payload {
            "triggers" => Some(Notice::Triggers),
            "deferred" => Some(Notice::Deferred),
            "replays" => Some(Notice::Replays),
            "lanes" => Some(Notice::Lanes),
            _ => None,
        }
    }

    fn payload(self) -> &'static str {
        match self {
            Notice::Triggers => "triggers",
            Notice::Deferred => "deferred",
            Notice::Replays => "replays",
            Notice::Lanes => "lanes",
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
