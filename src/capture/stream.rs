//! The replication transport: crate `pgwire-replication`, and nothing else of this house knows it.
//!
//! What release 0.5.0 needs from us (ARCHITECTURE.md, "The replication crate"): a quoted publication name; a slot name
//! that needs no quotes; status updates more often than the server's timeout; a bound on every wait, with `abort`
//! behind it; session settings pinned; errors told apart by the SQLSTATE in their text; and an end made of the endless
//! pings of a server that shuts down while we hold back an acknowledgement.

use std::time::{Duration, Instant};

use bytes::Bytes;
use pgwire_replication::client::{ReplicationClient, ReplicationEvent};
use pgwire_replication::config::{ReplicationConfig, TlsConfig};
use pgwire_replication::{Lsn as WireLsn, PgWireError};

use super::Error;
use crate::model::{Lsn, Timestamp};
use crate::postgres::{Class, Settings};

/// What comes from the stream.
#[derive(Debug)]
pub(super) enum Frame {
    /// A transaction starts; transactions come whole and in commit order.
    Begin { commit_lsn: Lsn, xid: u32, committed_at: Timestamp },
    /// A message of the open transaction, for `pgoutput::decode`.
    Data(Bytes),
    /// The open transaction ends; its commit record ends here.
    Commit { end_lsn: Lsn },
    /// Outside of a transaction: everything that committed before this has been sent.
    Idle { position: Lsn },
    /// A logical message, which nobody here asked for.
    Message,
}

/// An open stream.
pub(super) struct Stream {
    client: ReplicationClient,
    /// The furthest position the server named.
    received: Lsn,
    pings: Pings,
}

const START_TIMEOUT: Duration = Duration::from_secs(30);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const LONGEST_STATUS_INTERVAL: Duration = Duration::from_secs(2);
/// Messages the transport reads ahead. More gains nothing measurable and costs memory when rows are large.
const READ_AHEAD: usize = 64;
/// Text output is what `pgoutput::value` expects; the same on every connection that renders rows.
const SESSION_OPTIONS: &str = "-c datestyle=ISO -c intervalstyle=postgres -c timezone=UTC -c bytea_output=hex \
                               -c extra_float_digits=1 -c statement_timeout=0 -c idle_in_transaction_session_timeout=0";

impl Stream {
    /// Starts streaming what committed after `start`, which is also what the server is told to be acknowledged.
    pub(super) async fn open(
        database: &Settings,
        slot: &str,
        publication: &str,
        start: Lsn,
        sender_timeout_millis: u64,
    ) -> Result<Self, Error> {
        let status_interval = match sender_timeout_millis {
            0 => LONGEST_STATUS_INTERVAL,
            millis => LONGEST_STATUS_INTERVAL.min(Duration::from_millis(millis) / 4),
        };
        let quoted = postgres_protocol::escape::escape_identifier(publication);
        let (user, password) = (database.user(), database.password());
        let config = ReplicationConfig::new(database.host(), user, password, database.database(), slot, quoted)
            .with_port(database.port())
            .with_tls(TlsConfig::disabled())
            .with_start_lsn(WireLsn(start.0))
            .with_ack_lsn(WireLsn(start.0))
            .with_status_interval(status_interval)
            .with_wakeup_interval(status_interval)
            .with_buffer_size(READ_AHEAD)
            .with_options(SESSION_OPTIONS)
            .with_application_name(format!("walhook capture {slot}"));
        let mut client = ReplicationClient::connect(config).await.map_err(stream_error)?;
        let started = tokio::time::timeout(START_TIMEOUT, client.wait_started()).await;
        let message = match started {
            Ok(Ok(())) => return Ok(Stream { client, received: start, pings: Pings::default() }),
            Ok(Err(error)) => return Err(stream_error(error)),
            Err(_) => format!("the server did not start it within {} s", START_TIMEOUT.as_secs()),
        };
        client.abort();
        Err(Error::Stream { message, class: Class::Retry })
    }

    /// The next frame. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Frame, Error> {
        loop {
            let event = self.client.recv().await.map_err(stream_error)?;
            let Some(event) = event else {
                return Err(Error::Stream { message: "the server closed it".into(), class: Class::Retry });
            };
            if let Some(frame) = self.frame(event)? {
                return Ok(frame);
            }
        }
    }

    fn frame(&mut self, event: ReplicationEvent) -> Result<Option<Frame>, Error> {
        Ok(Some(match event {
            ReplicationEvent::Begin { final_lsn, xid, commit_time_micros } => Frame::Begin {
                commit_lsn: Lsn(final_lsn.as_u64()),
                xid,
                committed_at: Timestamp::from_postgres_micros(commit_time_micros),
            },
            ReplicationEvent::XLogData { data, wal_end, .. } => {
                self.received = self.received.max(Lsn(wal_end.as_u64()));
                Frame::Data(data)
            }
            ReplicationEvent::Commit { end_lsn, .. } => {
                let end_lsn = Lsn(end_lsn.as_u64());
                self.received = self.received.max(end_lsn);
                Frame::Commit { end_lsn }
            }
            ReplicationEvent::KeepAlive { wal_end, reply_requested, .. } => {
                let position = Lsn(wal_end.as_u64());
                self.pings.note(position, reply_requested)?;
                self.received = self.received.max(position);
                Frame::Idle { position }
            }
            ReplicationEvent::Message { .. } => Frame::Message,
            _ => return Ok(None),
        }))
    }

    /// Tells the server that everything before this is durable here. A position that was never received is cut down to
    /// what was.
    pub(super) fn acknowledge(&self, durable: Lsn) {
        self.client.update_applied_lsn(WireLsn(durable.min(self.received).0));
    }

    /// The furthest position the server named.
    pub(super) fn received(&self) -> Lsn {
        self.received
    }

    /// Ends the stream, politely if the transport can.
    pub(super) async fn close(mut self) {
        let closed = tokio::time::timeout(CLOSE_TIMEOUT, self.client.shutdown()).await;
        if closed.is_err() {
            self.client.abort();
        }
    }
}

impl Drop for Stream {
    /// A transport that is only dropped may keep the slot: its worker can be stuck where no timer reaches it.
    fn drop(&mut self) {
        self.client.abort();
    }
}

/// Notices a server that shuts down: it pings again and again until everything it sent is acknowledged, and it would
/// never end while we wait for a commit of our own on that server. Ending the connection lets it go. A server that is
/// well pings twice a `wal_sender_timeout` at most.
#[derive(Debug, Default)]
struct Pings {
    last: Option<Instant>,
    in_a_row: u32,
    position: Lsn,
}

impl Pings {
    const MAX_IN_A_ROW: u32 = 10;
    const BETWEEN: Duration = Duration::from_secs(2);

    fn note(&mut self, position: Lsn, reply_requested: bool) -> Result<(), Error> {
        if !reply_requested {
            return Ok(());
        }
        let now = Instant::now();
        let again = position == self.position && self.last.is_some_and(|last| now.duration_since(last) < Self::BETWEEN);
        let in_a_row = if again { self.in_a_row + 1 } else { 1 };
        *self = Pings { last: Some(now), in_a_row, position };
        if in_a_row > Self::MAX_IN_A_ROW {
            return Err(Error::Stream { message: "the server is shutting down".into(), class: Class::Retry });
        }
        Ok(())
    }
}

fn stream_error(error: PgWireError) -> Error {
    let message = error.to_string();
    let class = match &error {
        PgWireError::Server(_) | PgWireError::Auth(_) => class_of(&message),
        PgWireError::Tls(_) | PgWireError::MessageTooLarge { .. } => Class::Operator,
        _ => Class::Retry,
    };
    Error::Stream { message, class }
}

/// The transport gives a server's error as one text that ends in its SQLSTATE.
///
/// A missing or invalidated slot (42704, 55000) is tried again because the next try looks at the slot through SQL first
/// and says exactly what is wrong.
fn class_of(message: &str) -> Class {
    let state = message.rsplit_once("(SQLSTATE ").map_or("", |(_, rest)| rest.trim_end_matches(')'));
    match state {
        "42704" => Class::Retry,
        _ if state.starts_with("28") || state.starts_with("3D") || state.starts_with("42") => Class::Operator,
        _ => Class::Retry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_errors_are_told_apart_by_their_code() {
        for (message, class) in [
            ("slot is active for PID 7 (SQLSTATE 55006)", Class::Retry),
            ("terminating connection (SQLSTATE 57P01)", Class::Retry),
            ("replication slot does not exist (SQLSTATE 42704)", Class::Retry),
            ("must be superuser or replication role (SQLSTATE 42501)", Class::Operator),
            ("password authentication failed (SQLSTATE 28P01)", Class::Operator),
            ("no code at all", Class::Retry),
        ] {
            assert_eq!(class_of(message), class, "{message}");
        }
    }

    #[test]
    fn endless_pings_at_one_place_end_the_stream() {
        let mut pings = Pings::default();
        let outcomes: Vec<bool> = (0..60).map(|_| pings.note(Lsn(1), true).is_ok()).collect();
        assert!(outcomes[..10].iter().all(|ok| *ok) && !outcomes[59]);
        let mut moving = Pings::default();
        assert!((0..60).all(|step| moving.note(Lsn(step), true).is_ok()), "a server that moves on is not stopping");
    }
}
