//! Status updates to the server, from a task of their own: they go on whatever the consumer does, also while it waits
//! for the rest of a message.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, BytesMut};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::model::{Lsn, Timestamp};

/// A server that shuts down pings again as soon as it has its answer, for as long as something is not acknowledged. So
/// answers are kept this far apart; no timeout of a server is so short.
const BETWEEN_ANSWERS: Duration = Duration::from_millis(100);
/// After so long a silence the server is asked for an answer with each update.
const ASK_AFTER: Duration = Duration::from_secs(5);

/// What the server is to be told.
#[derive(Debug)]
struct Positions {
    /// The furthest that came in.
    received: AtomicU64,
    /// Everything before it is durable here.
    durable: AtomicU64,
    /// Whether anything came in since the last update.
    heard: AtomicBool,
    /// The server asked, or it is over.
    wake: Notify,
    over: AtomicBool,
}

/// The consumer's end. Dropping it ends the updates.
#[derive(Debug)]
pub(super) struct Feedback {
    positions: Arc<Positions>,
    task: JoinHandle<io::Result<()>>,
}

impl Drop for Feedback {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Feedback {
    /// Starts updates at least every `interval`. Nothing before `start` is wanted any more, and nothing is acknowledged
    /// yet: the server takes no notice of 0.
    pub(super) fn start(
        outgoing: impl AsyncWrite + Send + Unpin + 'static,
        start: Lsn,
        interval: Duration,
    ) -> Feedback {
        let positions = Arc::new(Positions {
            received: AtomicU64::new(start.0),
            durable: AtomicU64::new(0),
            heard: AtomicBool::new(true),
            wake: Notify::new(),
            over: AtomicBool::new(false),
        });
        let task = tokio::spawn(report(outgoing, Arc::clone(&positions), interval));
        Feedback { positions, task }
    }

    /// Something came in, and this is the furthest position so far.
    pub(super) fn received(&self, position: Lsn) {
        self.positions.received.store(position.0, Ordering::Relaxed);
        self.positions.heard.store(true, Ordering::Relaxed);
    }

    /// Everything before this is durable. What was never received cannot be: it is cut down to what was.
    pub(super) fn acknowledge(&self, durable: Lsn) {
        let known = self.positions.received.load(Ordering::Relaxed);
        self.positions.durable.fetch_max(durable.0.min(known), Ordering::Relaxed);
    }

    /// The server wants an update now.
    pub(super) fn answer(&self) {
        self.positions.wake.notify_one();
    }

    /// Sends a last update, and that no more will come; waits for both at most so long.
    pub(super) async fn finish(&mut self, limit: Duration) {
        self.positions.over.store(true, Ordering::Relaxed);
        self.positions.wake.notify_one();
        // A connection that is broken needs no farewell.
        drop(timeout(limit, &mut self.task).await);
    }
}

async fn report(
    mut outgoing: impl AsyncWrite + Send + Unpin,
    positions: Arc<Positions>,
    interval: Duration,
) -> io::Result<()> {
    let mut bytes = BytesMut::new();
    let mut heard_at = Instant::now();
    loop {
        let over = positions.over.load(Ordering::Relaxed);
        if positions.heard.swap(false, Ordering::Relaxed) {
            heard_at = Instant::now();
        }
        bytes.clear();
        status_update(&positions, heard_at.elapsed() >= ASK_AFTER, &mut bytes)?;
        if over {
            frontend::copy_done(&mut bytes);
            frontend::terminate(&mut bytes);
        }
        outgoing.write_all(&bytes).await?;
        outgoing.flush().await?;
        if over {
            return Ok(());
        }
        if timeout(interval, positions.wake.notified()).await.is_ok() && !positions.over.load(Ordering::Relaxed) {
            sleep(BETWEEN_ANSWERS).await;
        }
    }
}

/// Written: what came in. Flushed and applied: what is durable here.
fn status_update(positions: &Positions, ask: bool, out: &mut BytesMut) -> io::Result<()> {
    let durable = positions.durable.load(Ordering::Relaxed);
    let received = positions.received.load(Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let clock = Timestamp(i64::try_from(now.as_micros()).unwrap_or(0)).to_postgres_micros();
    let mut body = [0; 34];
    let mut fields = &mut body[..];
    fields.put_u8(b'r');
    fields.put_u64(received);
    fields.put_u64(durable);
    fields.put_u64(durable);
    fields.put_i64(clock);
    fields.put_u8(u8::from(ask));
    frontend::CopyData::new(&body[..])?.write(out);
    Ok(())
}
