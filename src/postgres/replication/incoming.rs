//! The server's messages, read in large pieces and lent out where they lie.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

use super::Error;

/// What is read at once, and what the buffer holds unless a message is larger.
const BUFFER: usize = 128 * 1024;
/// Tag and length.
const HEADER: usize = 5;
/// Postgres itself makes no larger message.
const LONGEST_MESSAGE: usize = 1 << 30;

/// Reads messages. Memory is bounded by the largest message and the buffer.
pub(super) struct Incoming<R> {
    reader: R,
    buffer: BytesMut,
    /// How much of the buffer the last message took that was lent out.
    lent: usize,
    /// Whether the buffer was made larger than usual for one message.
    enlarged: bool,
    /// How long nothing may come, and when that time will be over.
    silence: Option<(Duration, Instant)>,
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    pub(super) fn new(reader: R) -> Self {
        Incoming { reader, buffer: BytesMut::with_capacity(BUFFER), lent: 0, enlarged: false, silence: None }
    }

    /// From now on so long a silence is an error.
    pub(super) fn limit_silence(&mut self, limit: Duration) {
        self.silence = Some((limit, Instant::now() + limit));
    }

    /// The next message's tag and body. Cancel-safe: bytes that were read stay in the buffer.
    pub(super) async fn next(&mut self) -> Result<(u8, &[u8]), Error> {
        self.buffer.advance(std::mem::take(&mut self.lent));
        let length = loop {
            let length = self.whole_message()?;
            if length <= self.buffer.len() {
                break length;
            }
            self.read(length).await?;
        };
        self.lent = length;
        Ok((self.buffer[0], self.body()))
    }

    /// The body of the message that was lent out last.
    pub(super) fn body(&self) -> &[u8] {
        self.buffer.get(HEADER..self.lent).unwrap_or_default()
    }

    /// How long the first message is, its header included; the header's length where that is not there yet.
    fn whole_message(&self) -> Result<usize, Error> {
        let Some(&[_, a, b, c, d]) = self.buffer.first_chunk::<HEADER>() else { return Ok(HEADER) };
        // The length counts itself and not the tag.
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        match (4..=LONGEST_MESSAGE).contains(&length) {
            true => Ok(length + 1),
            false => Err(Error::Protocol(format!("a message of {length} bytes"))),
        }
    }

    /// Reads more, knowing that so much is needed.
    async fn read(&mut self, needed: usize) -> Result<(), Error> {
        if self.enlarged && needed <= BUFFER / 2 && self.buffer.len() <= BUFFER / 2 {
            let mut smaller = BytesMut::with_capacity(BUFFER);
            smaller.extend_from_slice(&self.buffer);
            self.buffer = smaller;
            self.enlarged = false;
        }
        self.enlarged |= needed > BUFFER / 2;
        self.buffer.reserve((needed - self.buffer.len()).max(BUFFER / 2));
        let reading = self.reader.read_buf(&mut self.buffer);
        let read = match &mut self.silence {
            None => reading.await,
            Some((limit, deadline)) => {
                // What is there is read before the time is looked at, which may have passed while nobody read.
                let read = timeout_at(*deadline, reading).await;
                *deadline = Instant::now() + *limit;
                let message = || format!("nothing came for {} s, though an answer was asked for", limit.as_secs());
                read.map_err(|_| Error::Ended(message()))?
            }
        };
        match read.map_err(Error::Broken)? {
            0 => Err(Error::Ended("the server closed it".into())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend((body.len() as u32 + 4).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[tokio::test]
    async fn messages_cut_at_any_place_come_whole_though_the_wait_for_them_is_given_up() {
        let (mut server, client) = tokio::io::duplex(64);
        let mut incoming = Incoming::new(client);
        let bytes = [message(b'a', b"one"), message(b'b', b""), message(b'c', b"three")].concat();
        let mut found = Vec::new();
        for byte in bytes {
            server.write_all(&[byte]).await.expect("room");
            while let Some(message) = incoming.next().now_or_never() {
                let (tag, body) = message.expect("a message");
                found.push((tag, body.to_vec()));
            }
        }
        assert_eq!(found, [(b'a', b"one".to_vec()), (b'b', Vec::new()), (b'c', b"three".to_vec())]);
    }

    #[tokio::test]
    async fn a_large_message_enlarges_the_buffer_only_for_itself() {
        let (mut server, client) = tokio::io::duplex(1 << 20);
        let mut incoming = Incoming::new(client);
        let large = vec![7; 5 << 20];
        let sending = tokio::spawn(async move {
            for body in [&large[..], b"small", &large[..], b"small", b"last"] {
                server.write_all(&message(b'd', body)).await.expect("a reader");
            }
            server
        });
        for expected in [5 << 20, 5, 5 << 20, 5, 4] {
            assert_eq!(incoming.next().await.expect("a message").1.len(), expected);
        }
        let mut server = sending.await.expect("all is sent");
        server.write_all(&message(b'e', b"")).await.expect("a reader");
        incoming.next().await.expect("a message");
        assert!(incoming.buffer.capacity() <= BUFFER, "{}", incoming.buffer.capacity());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_an_error_also_in_the_middle_of_a_message_but_not_where_nobody_read() {
        let (mut server, client) = tokio::io::duplex(64);
        let mut incoming = Incoming::new(client);
        incoming.limit_silence(Duration::from_secs(10));
        server.write_all(&message(b'a', b"one")).await.expect("room");
        tokio::time::sleep(Duration::from_secs(60)).await;
        incoming.next().await.expect("what came while nobody read");
        server.write_all(&message(b'b', b"half")[..6]).await.expect("room");
        let start = Instant::now();
        assert!(matches!(incoming.next().await, Err(Error::Ended(_))));
        assert_eq!(start.elapsed().as_secs(), 10);
    }

    #[tokio::test]
    async fn lengths_that_cannot_be_are_refused() {
        for length in [0_u32, 3, u32::MAX] {
            let (mut server, client) = tokio::io::duplex(64);
            server.write_all(&[&b"d"[..], &length.to_be_bytes()].concat()).await.expect("room");
            assert!(matches!(Incoming::new(client).next().await, Err(Error::Protocol(_))), "{length}");
        }
    }
}
