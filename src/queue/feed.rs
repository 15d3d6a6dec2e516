//! Committed events handed from capture to delivery in memory, so that the usual event is never read back.
//!
//! The hand-over is best effort and bounded by bytes: when delivery makes no room for a while, events are dropped from
//! it and only the log's new end is told. The log has them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::{Chunk, Logged};

const MAX_BYTES: usize = 8 * 1024 * 1024;
const MAX_HANDOVERS: usize = 64;
/// How long a hand-over waits for room at most. Reading an event back costs more than this wait does to a stream that
/// is ahead of its deliveries; a delivery that is stuck makes room sooner, by leaving events to the log.
const ROOM_WITHIN: Duration = Duration::from_millis(500);
/// Counted for each event beside its rows: the struct itself and the queues' entries.
const EVENT_OVERHEAD: usize = 256;

/// Events that were committed together, contiguous in the log.
pub struct Handover {
    /// In the order of the log.
    pub events: Vec<Logged>,
    /// Gives the bytes back when delivery has taken the events over.
    pub room: Room,
}

/// Bytes that are reserved until this is dropped.
pub struct Room(#[allow(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// What the feed has to tell.
pub enum FeedItem {
    /// New events.
    Handover(Handover),
    /// Each source's log ends here now; what lies between this and the last hand-over must be read from it.
    Heads(Heads),
}

/// The last seq of each source that is captured in this process.
pub type Heads = BTreeMap<i16, i64>;

/// Capture's end, one for each source. They share the room.
#[derive(Clone)]
pub struct FeedSender {
    handovers: mpsc::Sender<Handover>,
    heads: watch::Sender<Heads>,
    room: Arc<Semaphore>,
}

/// Delivery's end.
pub struct FeedReceiver {
    handovers: mpsc::Receiver<Handover>,
    heads: watch::Receiver<Heads>,
}

/// Both ends of the feed.
pub fn feed() -> (FeedSender, FeedReceiver) {
    let (handovers, handovers_receiver) = mpsc::channel(MAX_HANDOVERS);
    let (heads, heads_receiver) = watch::channel(Heads::new());
    let room = Arc::new(Semaphore::new(MAX_BYTES));
    (FeedSender { handovers, heads, room }, FeedReceiver { handovers: handovers_receiver, heads: heads_receiver })
}

impl FeedSender {
    /// Waits a moment for the room that handing these events over takes; `None` when there is none. To be asked before
    /// they are appended, so that a stream slows down to what delivery can take instead of running ahead of it.
    /// For a part of a transaction it does not wait: nothing makes room before that transaction has ended.
    pub fn reserve(&self, chunk: &Chunk) -> impl Future<Output = Option<Room>> + Send + use<> {
        let bytes: usize = chunk.events.iter().map(|event| event.size() + EVENT_OVERHEAD).sum();
        let wanted = bytes <= MAX_BYTES && !self.handovers.is_closed();
        let within = if chunk.progress.is_some() { ROOM_WITHIN } else { Duration::ZERO };
        let room = Arc::clone(&self.room);
        async move {
            let permits = u32::try_from(bytes).ok().filter(|_| wanted)?;
            tokio::time::timeout(within, room.acquire_many_owned(permits)).await.ok()?.ok().map(Room)
        }
    }

    /// Tells where a source's log ends. Comes after the hand-over of the same events, which delivery is to see first.
    pub fn tell_head(&self, source_id: i16, last_seq: i64) {
        self.heads.send_modify(|heads| {
            heads.insert(source_id, last_seq);
        });
    }

    /// Where the sources' logs end, as it changes.
    pub fn heads(&self) -> watch::Receiver<Heads> {
        self.heads.subscribe()
    }

    /// Nothing more will be told of this source: another node may go on.
    pub fn fall_silent(&self, source_id: i16) {
        self.heads.send_modify(|heads| {
            heads.remove(&source_id);
        });
    }
}

/// What was appended and waits for its commit.
#[derive(Default)]
pub struct Uncommitted {
    parts: Vec<Handover>,
    too_much: bool,
    last_seq: i64,
}

impl Uncommitted {
    /// Adds an append, with the room that was reserved for it. Without it delivery will read all of the commit's events
    /// from the log.
    pub fn push(&mut self, events: Vec<Logged>, room: Option<Room>, last_seq: i64) {
        self.last_seq = last_seq;
        match room {
            Some(room) if !self.too_much => self.parts.push(Handover { events, room }),
            _ => {
                self.parts.clear();
                self.too_much = true;
            }
        }
    }

    /// The commit is done: hands over what was added. Never waits.
    pub fn hand_over(&mut self, source_id: i16, feed: &FeedSender) {
        for handover in self.parts.drain(..) {
            // A full channel or a delivery that ended is the same as no room.
            drop(feed.handovers.try_send(handover));
        }
        self.too_much = false;
        feed.tell_head(source_id, self.last_seq);
    }
}

impl FeedReceiver {
    /// Whether a capture in this process tells the end of this source's log.
    pub fn tells(&self, source_id: i16) -> bool {
        self.heads.borrow().contains_key(&source_id)
    }

    /// The next thing told; never ends: a capture that is gone tells nothing.
    ///
    /// Cancel-safe: it takes nothing before it returns it.
    pub async fn recv(&mut self) -> FeedItem {
        loop {
            tokio::select! {
                biased;
                Some(handover) = self.handovers.recv() => return FeedItem::Handover(handover),
                Ok(()) = self.heads.changed() => {
                    // The hand-over was sent before the head moved; it may have come in since the first arm looked.
                    if let Ok(handover) = self.handovers.try_recv() {
                        self.heads.mark_changed();
                        return FeedItem::Handover(handover);
                    }
                    return FeedItem::Heads(self.heads.borrow_and_update().clone());
                }
                else => std::future::pending::<()>().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Event, Lsn};

    fn logged(seq: i64, bytes: usize) -> Logged {
        let event = Event { new: Some(vec![b'x'; bytes].into()), ..Event::example(seq as u64) };
        Logged { seq, source_id: 1, event, replay_id: None }
    }

    fn chunk(seq: i64, bytes: usize, progress: Option<Lsn>) -> Chunk {
        Chunk { events: vec![logged(seq, bytes).event], activations: Vec::new(), advances: Vec::new(), progress }
    }

    async fn told(receiver: &mut FeedReceiver) -> Result<Vec<i64>, i64> {
        match receiver.recv().await {
            FeedItem::Handover(handover) => Ok(handover.events.iter().map(|logged| logged.seq).collect()),
            FeedItem::Heads(heads) => Err(heads[&1]),
        }
    }

    #[tokio::test]
    async fn the_parts_of_a_transaction_are_handed_over_in_order_once_it_is_committed() {
        let (sender, mut receiver) = feed();
        let mut uncommitted = Uncommitted::default();
        for (seq, progress) in [(1, None), (2, None), (3, Some(Lsn(9)))] {
            let room = sender.reserve(&chunk(seq, 10, progress)).await;
            uncommitted.push(vec![logged(seq, 10)], room, seq);
        }
        assert!(receiver.handovers.try_recv().is_err(), "nothing comes before the commit");
        uncommitted.hand_over(1, &sender);
        for seq in 1..=3 {
            assert_eq!(told(&mut receiver).await, Ok(vec![seq]));
        }
        assert_eq!(told(&mut receiver).await, Err(3));
    }

    #[tokio::test]
    async fn a_transaction_larger_than_the_room_is_left_to_the_log_and_the_next_one_is_not() {
        let (sender, mut receiver) = feed();
        let mut uncommitted = Uncommitted::default();
        for (seq, progress) in [(1, None), (2, None), (3, Some(Lsn(9)))] {
            let room = sender.reserve(&chunk(seq, MAX_BYTES / 2, progress)).await;
            uncommitted.push(vec![logged(seq, MAX_BYTES / 2)], room, seq);
        }
        uncommitted.hand_over(1, &sender);
        assert_eq!(told(&mut receiver).await, Err(3), "only where the log ends");
        let room = sender.reserve(&chunk(4, MAX_BYTES / 2, Some(Lsn(10)))).await;
        uncommitted.push(vec![logged(4, MAX_BYTES / 2)], room, 4);
        uncommitted.hand_over(1, &sender);
        assert_eq!(told(&mut receiver).await, Ok(vec![4]));
    }

    #[tokio::test(start_paused = true)]
    async fn whole_transactions_wait_for_room_but_not_for_ever() {
        let (sender, mut receiver) = feed();
        let whole = chunk(1, MAX_BYTES / 2 + 1, Some(Lsn(9)));
        let first = sender.reserve(&whole).await.expect("an empty feed has room");
        assert!(sender.reserve(&whole).await.is_none(), "nobody makes room");
        let waiting = sender.reserve(&whole);
        let (second, ()) = tokio::join!(waiting, async { drop(first) });
        assert!(second.is_some());
        receiver.handovers.close();
        drop(receiver);
        drop(second);
        assert!(sender.reserve(&whole).await.is_none(), "nobody is there to take it");
    }
}
