//! This node among the others: its heartbeats, its lease, its share of the lanes, and who was silent for too long. A
//! task with a session of its own, so that no batch keeps it from saying that it lives.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::{Lease, Moment, ServerClock, Trouble};
use crate::model::{Timestamp, fair_share};
use crate::postgres::Settings;
use crate::queue::{self, Beat, Buried, Node, Notice, Peer, Registry};

/// Where this node stands among the others that deliver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// When it was registered; again where others had taken it for dead.
    pub registered_at: Option<Timestamp>,
    /// How many lanes it is to have.
    pub share: usize,
    /// Whether other nodes are to have some.
    pub others_deliver: bool,
}

/// What the parts of this process need to know of it. The standing changes, or at least is told anew, with each
/// heartbeat.
#[derive(Clone, Debug)]
pub struct Member {
    /// The node.
    pub id: Uuid,
    /// Where it stands.
    pub standing: watch::Receiver<Standing>,
    /// Whether it may start requests.
    pub lease: Lease,
    /// What time it is.
    pub clock: ServerClock,
    /// Whether it cannot own lanes.
    pub trouble: Trouble,
    asked: Arc<Notify>,
}

impl Member {
    /// Other nodes came or went: looks at them now and not with the next heartbeat.
    pub fn look_at_others(&self) {
        self.asked.notify_one();
    }
}

/// See the module's description.
pub struct Membership {
    database: Settings,
    node: Node,
    lease: Lease,
    clock: ServerClock,
    trouble: Trouble,
    standing: watch::Sender<Standing>,
    asked: Arc<Notify>,
    leaving: CancellationToken,
    ended: CancellationToken,
}

/// Why the session was given up. Each is tried again.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Queue(#[from] queue::Error),
    #[error("Postgres did not answer a heartbeat within {0:?}")]
    TimedOut(Duration),
}

const LONGEST_BETWEEN_BEATS: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(250);
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

impl Membership {
    /// Of a new node on this queue that may be silent for so long. Once it is `leaving` it is to have no lanes any
    /// more, but it lives until it has `ended`.
    pub fn new(
        database: Settings,
        timeout: Duration,
        delivers: bool,
        leaving: CancellationToken,
        ended: CancellationToken,
    ) -> Membership {
        let node = Node {
            id: Uuid::new_v4(),
            host: whoami::hostname().unwrap_or_else(|_| "unknown".to_owned()),
            process_id: std::process::id(),
            timeout,
            delivers,
        };
        // It runs out well before others take the node for dead.
        let lease = Lease::new(timeout * 2 / 3);
        let standing = watch::channel(Standing::default()).0;
        let (clock, trouble, asked) = (ServerClock::default(), Trouble::default(), Arc::default());
        Membership { database, node, lease, clock, trouble, standing, asked, leaving, ended }
    }

    /// For the parts of this process.
    pub fn member(&self) -> Member {
        let (standing, lease, asked) = (self.standing.subscribe(), self.lease.clone(), self.asked.clone());
        let (clock, trouble) = (self.clock.clone(), self.trouble.clone());
        Member { id: self.node.id, standing, lease, clock, trouble, asked }
    }

    /// Runs until this node has ended.
    pub async fn run(self) {
        let mut told = false;
        loop {
            let Err(error) = self.session(&mut told).await else { return };
            if !std::mem::replace(&mut told, true) {
                warn!("this node cannot say that it lives: {error}; it starts no requests until it can");
            }
            tokio::select! {
                () = self.ended.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    /// One connection's worth.
    async fn session(&self, told: &mut bool) -> Result<(), Error> {
        let registry = tokio::select! {
            () = self.ended.cancelled() => return Ok(()),
            registry = Registry::open(&self.database, self.node.clone()) => registry?,
        };
        let opened = Instant::now();
        let mut previous: Option<Moment> = None;
        let mut told_leaving = false;
        loop {
            let began = Moment::now();
            let leaving = self.leaving.is_cancelled();
            // Until it can own lanes again others are to have them, as if it were leaving. Where its heartbeats failed
            // as well, it was no trouble of its own.
            let troubled = self.trouble.lasts(self.node.timeout) && opened.elapsed() > self.node.timeout;
            let registered_at = self.standing.borrow().registered_at;
            let peers = self.within(self.beat(&registry, leaving || troubled)).await?;
            // Others may have its lanes where it was registered anew: the recorder hears of that before it may send.
            if registered_at.is_none() || registered_at == self.standing.borrow().registered_at {
                self.lease.renew(began);
            }
            *told = false;
            // Who is slow itself, or was asleep, cannot tell whether others are.
            let steady = previous.replace(began).is_some_and(|moment| moment.elapsed() < 2 * self.between_beats());
            let judges = steady && began.elapsed() < self.between_beats();
            if judges && peers.iter().any(|peer| self.is_dead(peer)) && self.bury(&registry).await? {
                continue;
            }
            // The lease is longer now, and the others may be others.
            self.standing.send_modify(|standing| self.take_place(standing, &peers, leaving, troubled));
            if leaving && !std::mem::replace(&mut told_leaving, true) {
                self.within(registry.tell(Notice::Lanes)).await?;
            }
            let next = Instant::now() + self.until_next(&peers);
            if self.wait(next, leaving).await {
                drop(tokio::time::timeout(LEAVE_WITHIN, registry.leave()).await);
                return Ok(());
            }
        }
    }

    /// Finds this node's place among those that deliver: they come in the order in which they started, for all alike.
    fn take_place(&self, standing: &mut Standing, peers: &[Peer], leaving: bool, troubled: bool) {
        let is_own = |peer: &&Peer| peer.id == self.node.id;
        let gone = |peer: &Peer| if peer.id == self.node.id { leaving } else { peer.leaving || is_quiet(peer) };
        let mut delivering: Vec<&Peer> = peers.iter().filter(|peer| peer.delivers && !gone(peer)).collect();
        // Without others it tries on.
        if troubled && delivering.len() > 1 {
            delivering.retain(|peer| !is_own(peer));
        }
        let place = delivering.iter().position(is_own);
        standing.share = place.map_or(0, |place| fair_share(place, delivering.len()));
        standing.others_deliver = delivering.len() > usize::from(place.is_some());
    }

    /// Says that this node lives; registers it where it is not.
    async fn beat(&self, registry: &Registry, leaving: bool) -> Result<Vec<Peer>, queue::Error> {
        loop {
            let asked = std::time::Instant::now();
            let Beat { peers, server_time } = registry.beat(leaving).await?;
            if let Some(server_time) = server_time {
                self.clock.observe(asked, server_time, std::time::Instant::now());
            }
            if let Some(own) = peers.iter().find(|peer| peer.id == self.node.id) {
                self.note_registration(own.registered_at);
                return Ok(peers);
            }
            // Only a process that starts asks: after an outage that cut off many, the first one back would take the
            // others for dead.
            if self.standing.borrow().registered_at.is_none() {
                for process_id in registry.replace().await? {
                    info!("the node of process {process_id} on this machine has ended; its lanes need not wait for it");
                }
            }
            registry.register().await?;
        }
    }

    /// Goes by what a heartbeat sees: the answer to a registration may be lost though it was done.
    fn note_registration(&self, at: Timestamp) {
        let before = self.standing.borrow().registered_at;
        if before == Some(at) {
            return;
        }
        if before.is_some() {
            warn!("others had taken this node for dead; it begins anew");
        }
        self.standing.send_modify(|standing| standing.registered_at = Some(at));
    }

    /// Whether any node was taken for dead.
    async fn bury(&self, registry: &Registry) -> Result<bool, Error> {
        let buried = match self.within(registry.bury()).await {
            Err(Error::Queue(error)) => {
                warn!("a node is silent, and its session cannot be ended: {error}; let all nodes use one role");
                return Ok(false);
            }
            buried => buried?,
        };
        for node in &buried {
            let Buried { host, process_id, ended } = node;
            warn!("node {host} (process {process_id}) is silent and taken for dead; {ended} sessions of it were ended");
        }
        if buried.is_empty() {
            return Ok(false);
        }
        self.within(registry.tell(Notice::Lanes)).await?;
        Ok(true)
    }

    /// Waits for the next heartbeat's time, or for a reason to have it sooner. True when this node ends.
    async fn wait(&self, next: Instant, leaving: bool) -> bool {
        tokio::select! {
            () = self.ended.cancelled() => return true,
            () = self.leaving.cancelled(), if !leaving => {}
            () = self.asked.notified() => {}
            () = sleep_until(next) => {}
        }
        false
    }

    fn is_dead(&self, peer: &Peer) -> bool {
        peer.id != self.node.id && peer.silent > peer.timeout
    }

    /// Not later than the next peer can be taken for quiet or dead.
    fn until_next(&self, peers: &[Peer]) -> Duration {
        let others = peers.iter().filter(|peer| peer.id != self.node.id && !self.is_dead(peer));
        let limit = |peer: &Peer| if is_quiet(peer) { peer.timeout } else { peer.timeout / 2 };
        let soonest = others.map(|peer| limit(peer).saturating_sub(peer.silent) + Duration::from_millis(1)).min();
        soonest.map_or(self.between_beats(), |soonest| soonest.min(self.between_beats()))
    }

    fn between_beats(&self) -> Duration {
        (self.node.timeout / 3).min(LONGEST_BETWEEN_BEATS)
    }

    /// Bounds a wait for Postgres.
    async fn within<T>(&self, work: impl Future<Output = Result<T, queue::Error>>) -> Result<T, Error> {
        let limit = self.node.timeout;
        Ok(tokio::time::timeout(limit, work).await.map_err(|_| Error::TimedOut(limit))??)
    }
}

/// Whether it is left out when lanes are shared out. If it was killed, its lanes are free, and there is no need to wait
/// until it is taken for dead; if it lives, it has them.
fn is_quiet(peer: &Peer) -> bool {
    peer.silent > peer.timeout / 2
}
