//! WAL as it comes in, and how far it was worked off.

use std::time::Duration;

use postgres_protocol::escape::escape_identifier;
use postgres_protocol::message::frontend;
use tokio::io::ReadHalf;

use super::feedback::Feedback;
use super::incoming::Incoming;
use super::{COMMAND_TIMEOUT, Connection, Error, ServerError, unexpected};
use crate::model::Lsn;
use crate::postgres::transport::Transport;

/// Updates are sent at least as often, and a quarter of the server's own timeout if that is less.
const LONGEST_INTERVAL: Duration = Duration::from_secs(2);
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);
/// What a server is given to answer, which is asked for after 5 s of silence: as long as it gives us, within this. One
/// that decodes a large transaction of which nothing is published looks at what we say after half of its timeout only.
const SHORTEST_SILENCE: Duration = Duration::from_secs(15);
const LONGEST_SILENCE: Duration = Duration::from_secs(3600);
/// Where it gives us any time, it looks each time.
const USUAL_SILENCE: Duration = Duration::from_secs(60);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What to stream.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The slot's name.
    pub slot: &'a str,
    /// The publication's name.
    pub publication: &'a str,
    /// Transactions that committed before this are not sent again.
    pub from: Lsn,
    /// The server's `wal_sender_timeout`; zero where it has none.
    pub sender_timeout: Duration,
}

/// What comes in. Bytes are lent until the next call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A message of the output plugin.
    Message(&'a [u8]),
    /// Outside of a transaction: everything that committed before this has been sent.
    Position(Lsn),
}

/// An open stream. Dropping it closes the connection.
pub struct Stream {
    incoming: Incoming<ReadHalf<Transport>>,
    feedback: Feedback,
    /// The furthest position that the server named.
    received: Lsn,
}

impl Connection {
    /// Starts streaming. The slot is told that everything before the start is done with.
    ///
    /// # Errors
    /// What the server said: 55006 while another connection reads the slot, 42704 where there is none, 55000 where it
    /// cannot be used any more.
    pub async fn start(mut self, start: Start<'_>) -> Result<Stream, Error> {
        let command = command(start);
        let started = tokio::time::timeout(COMMAND_TIMEOUT, self.start_copy(&command)).await;
        let late = || format!("the server did not start it within {} s", COMMAND_TIMEOUT.as_secs());
        started.map_err(|_| Error::Ended(late()))??;
        let Connection { mut incoming, outgoing } = self;
        let interval = match start.sender_timeout {
            Duration::ZERO => LONGEST_INTERVAL,
            timeout => (timeout / 4).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL),
        };
        incoming.limit_silence(silence(start.sender_timeout));
        let feedback = Feedback::start(outgoing, start.from, interval);
        Ok(Stream { incoming, feedback, received: start.from })
    }

    async fn start_copy(&mut self, command: &str) -> Result<(), Error> {
        self.send(|out| frontend::query(command, out)).await?;
        loop {
            let (tag, body) = self.incoming.next().await?;
            match tag {
                b'W' => return Ok(()),
                b'E' => return Err(Error::Server(ServerError::read(body))),
                b'N' | b'S' => {}
                other => return Err(unexpected(other, "START_REPLICATION")),
            }
        }
    }
}

/// By `wal_sender_timeout`.
fn silence(sender_timeout: Duration) -> Duration {
    match sender_timeout {
        Duration::ZERO => USUAL_SILENCE,
        timeout => timeout.clamp(SHORTEST_SILENCE, LONGEST_SILENCE),
    }
}

fn command(start: Start<'_>) -> String {
    // The list of publications is a string of identifiers.
    let publications = escape_identifier(start.publication).replace('\'', "''");
    format!(
        "START_REPLICATION SLOT {} LOGICAL {} (proto_version '1', publication_names '{publications}', messages 'true')",
        escape_identifier(start.slot),
        start.from
    )
}

impl Stream {
    /// The next frame. Cancel-safe.
    ///
    /// # Errors
    /// Why the stream ended; it is of no more use.
    pub async fn next(&mut self) -> Result<Frame<'_>, Error> {
        loop {
            let (tag, body) = self.incoming.next().await?;
            match (tag, body.first()) {
                (b'd', Some(b'w')) => break,
                (b'd', Some(b'k')) => {
                    let (position, answer) = read_keepalive(body)?;
                    self.note(position);
                    if answer {
                        self.feedback.answer();
                    }
                    return Ok(Frame::Position(position));
                }
                (b'E', _) => return Err(Error::Server(ServerError::read(body))),
                (b'c' | b'C', _) => return Err(Error::Ended("the server ended it; it may be shutting down".into())),
                // Notices and changed settings.
                (b'N' | b'S', _) => {}
                (other, _) => return Err(unexpected(other, "the start of the stream")),
            }
        }
        let position = read_positions(self.incoming.body())?;
        self.note(position);
        Ok(Frame::Message(&self.incoming.body()[WAL_HEADER..]))
    }

    fn note(&mut self, position: Lsn) {
        self.received = self.received.max(position);
        self.feedback.received(self.received);
    }

    /// Tells the server, with the next update, that everything before this is durable here. Never more than came in.
    pub fn acknowledge(&self, durable: Lsn) {
        self.feedback.acknowledge(durable);
    }

    /// Says what is acknowledged a last time, and ends the stream.
    pub async fn close(mut self) {
        self.feedback.finish(CLOSE_TIMEOUT).await;
        // What still comes is read, because a socket that is closed over unread bytes may take the farewell with it.
        let rest = async { while self.incoming.next().await.is_ok() {} };
        drop(tokio::time::timeout(CLOSE_TIMEOUT, rest).await);
    }
}

/// `w`, where the message begins in the WAL, where it ends, the server's clock.
const WAL_HEADER: usize = 1 + 8 + 8 + 8;

/// The furthest position that a piece of WAL names.
fn read_positions(body: &[u8]) -> Result<Lsn, Error> {
    match body {
        [b'w', positions @ ..] if body.len() >= WAL_HEADER => Ok(read_lsn(positions).max(read_lsn(&positions[8..]))),
        _ => Err(Error::Protocol("a piece of WAL without its header".into())),
    }
}

/// How far the server came, and whether it wants an answer: `k`, a position, its clock, a flag.
fn read_keepalive(body: &[u8]) -> Result<(Lsn, bool), Error> {
    match body {
        [b'k', rest @ ..] if rest.len() == 17 => Ok((read_lsn(rest), rest[16] != 0)),
        _ => Err(Error::Protocol("a keepalive of another length".into())),
    }
}

fn read_lsn(bytes: &[u8]) -> Lsn {
    Lsn(bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_looks_after_half_of_its_timeout_is_given_longer() {
        for (seconds, expected) in [(0, 60), (1, 15), (60, 60), (600, 600), (7200, 3600)] {
            assert_eq!(silence(Duration::from_secs(seconds)), Duration::from_secs(expected));
        }
    }
}
