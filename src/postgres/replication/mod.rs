//! Connections of the streaming replication protocol, which the driver does not speak: login, commands, the stream.
//!
//! ```text
//! Connection::connect ─▶ identify, query ─▶ start ─▶ Stream ──frames──▶ consumer
//!                                                      └─ feedback (a task of its own) ──status updates──▶ server
//! ```

mod authentication;
mod feedback;
mod incoming;
mod stream;

pub use stream::{Frame, Start, Stream};

use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::escape::escape_identifier;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};

use super::connect::{NO_TRANSACTION_TIMEOUT, first_usable};
use super::settings::{Settings, Target};
use super::transport::Transport;
use super::{Error, SERVER_KEEPALIVES, ServerError};
use incoming::Incoming;

/// Text output is what `pgoutput` expects, whatever the server's, the database's or the role's settings are. With this
/// search path a name of the catalogue (`regclass` and its like) is printed with its schema.
pub(super) const TEXT_OPTIONS: &str = "-c datestyle=ISO -c intervalstyle=postgres -c timezone=UTC -c bytea_output=hex \
                       -c extra_float_digits=1 -c search_path=pg_catalog -c quote_all_identifiers=off \
                       -c statement_timeout=0 -c idle_session_timeout=0 \
                       -c idle_in_transaction_session_timeout=0";
/// Commands but the start answer at once.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// A replication connection that does not stream yet.
pub struct Connection {
    incoming: Incoming<ReadHalf<Transport>>,
    outgoing: WriteHalf<Transport>,
}

/// Which server a connection leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// The cluster's identifier, in decimal.
    pub identifier: String,
    /// The timeline it writes.
    pub timeline: i32,
}

impl Connection {
    /// Connects to the database for logical replication.
    ///
    /// # Errors
    /// As [`super::connect()`].
    pub async fn connect(settings: &Settings, application_name: &str) -> Result<Connection, Error> {
        first_usable(settings, |target| Box::pin(Connection::connect_to(settings, application_name, target))).await
    }

    async fn connect_to(
        settings: &Settings,
        application_name: &str,
        target: Target,
    ) -> Result<(Connection, bool), Error> {
        let transport = Transport::open(settings, &target).await?;
        let options = format!("{TEXT_OPTIONS} {SERVER_KEEPALIVES}");
        let config = settings.login(&target, application_name, &options, transport.is_encrypted())?;
        let end_point = transport.end_point().map(<[u8]>::to_vec);
        let (reader, outgoing) = tokio::io::split(transport);
        let mut connection = Connection { incoming: Incoming::new(reader), outgoing };
        let greeting = connection.log_in(&config, &target, end_point).await?;
        if greeting.is_without_encoding {
            // Else the server ends the stream at the first byte that is no UTF-8, each time.
            connection.query("SET client_encoding = 'SQL_ASCII'").await?;
        }
        if greeting.has_transaction_timeout {
            // To send one is a transaction of the server's, which takes as long as whoever reads it.
            connection.query(NO_TRANSACTION_TIMEOUT).await?;
        }
        Ok((connection, greeting.is_standby))
    }

    /// Asks which server this is.
    ///
    /// # Errors
    /// What the server said.
    pub async fn identify(&mut self) -> Result<System, Error> {
        let rows = self.query("IDENTIFY_SYSTEM").await?;
        let field = |index: usize| rows.first().and_then(|row| row.get(index)?.clone());
        let timeline = field(1).and_then(|timeline| timeline.parse().ok());
        match (field(0), timeline) {
            (Some(identifier), Some(timeline)) => Ok(System { identifier, timeline }),
            _ => Err(Error::Protocol("IDENTIFY_SYSTEM was answered with something else".into())),
        }
    }

    /// Has a slot follow to standbys, so that it is there after a failover. Postgres 17 and later.
    ///
    /// # Errors
    /// What the server said; 55006 while another connection reads the slot.
    pub async fn set_failover(&mut self, slot: &str) -> Result<(), Error> {
        let slot = escape_identifier(slot);
        self.query(&format!("ALTER_REPLICATION_SLOT {slot} ( FAILOVER true )")).await.map(drop)
    }

    /// Runs a replication command and gives its rows, as texts.
    ///
    /// # Errors
    /// What the server said.
    pub async fn query(&mut self, command: &str) -> Result<Vec<Vec<Option<String>>>, Error> {
        let seconds = COMMAND_TIMEOUT.as_secs();
        let late = |_| Err(Error::Ended(format!("the server did not answer {command:?} within {seconds} s")));
        tokio::time::timeout(COMMAND_TIMEOUT, self.query_rows(command)).await.unwrap_or_else(late)
    }

    async fn query_rows(&mut self, command: &str) -> Result<Vec<Vec<Option<String>>>, Error> {
        self.send(|out| frontend::query(command, out)).await?;
        let mut rows = Vec::new();
        loop {
            let (tag, body) = self.incoming.next().await?;
            match tag {
                b'D' => rows.push(read_row(body)?),
                b'E' => return Err(Error::Server(ServerError::read(body))),
                b'Z' => return Ok(rows),
                // Row description, command completion, notices.
                b'T' | b'C' | b'N' | b'S' => {}
                other => return Err(unexpected(other, command)),
            }
        }
    }

    async fn send(&mut self, message: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) -> Result<(), Error> {
        let mut bytes = BytesMut::new();
        message(&mut bytes).map_err(|error| Error::Settings(error.to_string()))?;
        self.outgoing.write_all(&bytes).await.map_err(Error::Broken)?;
        self.outgoing.flush().await.map_err(Error::Broken)
    }
}

fn unexpected(tag: u8, place: &str) -> Error {
    Error::Protocol(format!("message {:?} after {place}", char::from(tag)))
}

/// A row's cells: a count, then for each cell its length, -1 for null, and its bytes.
fn read_row(body: &[u8]) -> Result<Vec<Option<String>>, Error> {
    let broken = || Error::Protocol("a row that ends inside a cell".into());
    let (count, mut rest) = body.split_first_chunk().ok_or_else(broken)?;
    let mut row = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk().ok_or_else(broken)?;
        rest = after;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            row.push(None);
            continue;
        };
        let (cell, after) = rest.split_at_checked(length).ok_or_else(broken)?;
        rest = after;
        row.push(Some(String::from_utf8_lossy(cell).into_owned()));
    }
    Ok(row)
}
