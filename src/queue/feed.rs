//! Committed events handed from capture to delivery in memory, so that the usual event is never read back.
//!
//! The hand-over is best effort and bounded by bytes: when delivery has no room, events are dropped from it and only
//! the log's new end is told. The log has them.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::Logged;

const MAX_BYTES: usize = 4 * 1024 * 1024;
const MAX_HANDOVERS: usize = 64;
/// Counted for each event beside its rows: the struct itself and the queues' entries.
const EVENT_OVERHEAD: usize = 256;

/// Events that were committed together, contiguous in the log.
pub struct Handover {
    /// In the order of the log.
    pub events: Vec<Logged>,
    /// Gives the bytes back when delivery has taken the events over.
    _room: OwnedSemaphorePermit,
}

/// What the feed has to tell.
pub enum FeedItem {
    /// New events.
    Handover(Handover),
    /// The log ends here now; what lies between this and the last hand-over must be read from it.
    Head(i64),
}

/// Capture's end.
pub struct FeedSender {
    handovers: mpsc::Sender<Handover>,
    head: watch::Sender<i64>,
    room: Arc<Semaphore>,
}

/// Delivery's end.
pub struct FeedReceiver {
    handovers: mpsc::Receiver<Handover>,
    head: watch::Receiver<i64>,
}

/// Both ends of a source's feed.
pub fn feed() -> (FeedSender, FeedReceiver) {
    let (handovers, handovers_receiver) = mpsc::channel(MAX_HANDOVERS);
    let (head, head_receiver) = watch::channel(0);
    let room = Arc::new(Semaphore::new(MAX_BYTES));
    (FeedSender { handovers, head, room }, FeedReceiver { handovers: handovers_receiver, head: head_receiver })
}

impl FeedSender {
    /// Hands committed events over if there is room. Never waits.
    pub fn hand_over(&self, events: Vec<Logged>, last_seq: i64) {
        let bytes: usize = events.iter().map(|logged| logged.event.size() + EVENT_OVERHEAD).sum();
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        if let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(permits) {
            // A full channel or a delivery that ended is the same as no room.
            drop(self.handovers.try_send(Handover { events, _room: room }));
        }
        self.tell_head(last_seq);
    }

    /// Tells where the log ends. Comes after the hand-over of the same events, so that delivery sees those first.
    pub fn tell_head(&self, last_seq: i64) {
        self.head.send_replace(last_seq);
    }
}

impl FeedReceiver {
    /// The next thing told; never ends: a capture that is gone tells nothing.
    ///
    /// Cancel-safe: it takes nothing before it returns it.
    pub async fn recv(&mut self) -> FeedItem {
        loop {
            tokio::select! {
                biased;
                Some(handover) = self.handovers.recv() => return FeedItem::Handover(handover),
                Ok(()) = self.head.changed() => {
                    // The hand-over was sent before the head moved; it may have come in since the first arm looked.
                    if let Ok(handover) = self.handovers.try_recv() {
                        self.head.mark_changed();
                        return FeedItem::Handover(handover);
                    }
                    return FeedItem::Head(*self.head.borrow_and_update());
                }
                else => std::future::pending::<()>().await,
            }
        }
    }
}
