//! The one task that knows what is to be sent, what is under way and what is done.

mod batching;
mod feeding;
mod figures;
mod holding;
mod lanes;
mod reactions;
mod reading;
mod starts;
mod stopping;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::error;
use uuid::Uuid;

use self::feeding::Held;
use self::lanes::Lanes;
use self::reading::Reads;
use super::attempt::EndedRequest;
use super::budget::Budget;
use super::busy::Busy;
use super::fetch::Fetched;
use super::gate::Gate;
use super::outages::Outages;
use super::recorder::{Recorder, Report, Work};
use super::trigger_queue::TriggerQueue;
use super::{Client, Command, Parts};
use crate::model::{EventId, Timestamp};
use crate::node::Member;
use crate::postgres::Pool;
use crate::queue::{Batch, FeedItem, FeedReceiver};

/// Between two recordings, unless there is much to record: nobody waits for the record of an accepted event, and each
/// one is a commit on a server that the application shares.
const BETWEEN_RECORDINGS: Duration = Duration::from_millis(50);
const MUCH_TO_RECORD: usize = 512;
/// Ended requests that are looked at together, at most.
const ENDED_AT_ONCE: usize = 256;
/// A trigger's turn, so that a busy one does not keep the others waiting.
const TURN: usize = 16;
const CURSOR_INTERVAL: Duration = Duration::from_secs(2);
/// Behind every hint there is a slow look, because a hint may have gone to another process.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Where a source is not captured in this process, the end of its log is told by NOTIFY, or else known by asking.
const HEAD_INTERVAL: Duration = Duration::from_secs(2);
const HEAD_INTERVAL_TOLD: Duration = LOOK_INTERVAL;
/// For so long after the start hand-overs wait for the lanes and the triggers, which are a moment away unless another
/// node has them. What came before them would have to be read from the log, and what came meanwhile as well.
const START: Duration = Duration::from_secs(1);
/// Where deferred events may be due already.
const AT_ONCE: Timestamp = Timestamp(i64::MIN);

/// Each source's end of the log: everything up to it was told by the feed or is known to be unread.
#[derive(Debug, Default)]
struct Heads(BTreeMap<i16, i64>);

impl Heads {
    fn of(&self, source_id: i16) -> i64 {
        self.0.get(&source_id).copied().unwrap_or(0)
    }
}

/// See the module's description.
pub(super) struct Dispatcher {
    pool: Pool,
    client: Arc<Client>,
    environment: crate::model::Environment,
    longest_retry_after: Duration,
    grace: Duration,
    feed: Option<FeedReceiver>,
    held: Option<Held>,
    commands: mpsc::Receiver<Command>,
    recorder: Option<Recorder>,
    work: mpsc::Sender<Work>,
    reports: mpsc::UnboundedReceiver<Report>,
    member: Member,
    /// Whether the recorder has something in hand.
    recording: bool,
    lanes: Lanes,
    gate: Gate,
    /// Whether lanes are ours and the queues know it: nothing is started otherwise.
    owner: bool,
    triggers: HashMap<Uuid, TriggerQueue>,
    /// Until when hand-overs wait for the first load; `None` once it was.
    starts_until: Option<Instant>,
    /// Triggers that may have something to send, each at most once.
    turns: VecDeque<Uuid>,
    in_turns: HashSet<Uuid>,
    heads: Heads,
    /// From the start of a request until its outcome is durable.
    busy: HashMap<EventId, Busy>,
    /// Of those, the events in requests that are under way beside the first one of each.
    busy_beside: usize,
    /// The most of the others: what a crash may send again.
    max_busy: usize,
    /// Those whose request is under way.
    budget: Budget,
    /// Triggers whose rate allows no request before then.
    paced: BTreeSet<(Instant, Uuid)>,
    ended: mpsc::UnboundedReceiver<EndedRequest>,
    ended_sender: mpsc::UnboundedSender<EndedRequest>,
    /// To be recorded.
    unrecorded: Batch,
    /// Whether a trigger may have events to be parked.
    look_for_parked: bool,
    /// Not before this, unless there is much to record.
    record_at: Instant,
    fetches: JoinSet<Fetched>,
    reads: Reads,
    /// Whether a trigger may have become ready to read on since the last look at all of them.
    look_for_reads: bool,
    loading: bool,
    load_again: bool,
    loaded_waiters: Vec<oneshot::Sender<()>>,
    waiters_of_next_load: Vec<oneshot::Sender<()>>,
    due_running: bool,
    /// When something deferred is due, as far as it was noted since the last look began.
    next_due: Option<Timestamp>,
    cursors_due: bool,
    heads_running: bool,
    /// When the log's ends are asked for again, told or not.
    heads_at: Instant,
    outages: Outages,
    /// Whether the endpoints that are down may be others than the database was told.
    down_changed: bool,
    /// Whether it was told of any.
    was_down: bool,
    telling_down: bool,
    down_told_at: Option<Instant>,
}

impl Dispatcher {
    pub(super) fn new(parts: Parts, client: Client) -> Self {
        let (work, work_receiver) = mpsc::channel(1);
        let (report_sender, reports) = mpsc::unbounded_channel();
        // Its length is bounded by the requests under way.
        let (ended_sender, ended) = mpsc::unbounded_channel();
        let (database, member) = (parts.database, parts.member);
        let gate = Gate::new(&member);
        let recorder = Recorder::new(database, member.clone(), work_receiver, report_sender, gate.clone());
        Dispatcher {
            pool: parts.pool,
            client: Arc::new(client),
            environment: parts.environment,
            longest_retry_after: parts.longest_retry_after,
            grace: parts.grace,
            feed: parts.feed,
            held: None,
            commands: parts.commands,
            recorder: Some(recorder),
            work,
            reports,
            member,
            recording: false,
            lanes: Lanes::default(),
            gate,
            owner: false,
            triggers: HashMap::new(),
            starts_until: Some(Instant::now() + START),
            turns: VecDeque::new(),
            in_turns: HashSet::new(),
            heads: Heads::default(),
            busy: HashMap::new(),
            busy_beside: 0,
            max_busy: (2 * parts.max_in_flight).max(parts.max_in_flight + TURN),
            budget: Budget::new(parts.max_in_flight),
            paced: BTreeSet::new(),
            ended,
            ended_sender,
            unrecorded: Batch::default(),
            look_for_parked: false,
            record_at: Instant::now(),
            fetches: JoinSet::new(),
            reads: Reads::default(),
            look_for_reads: false,
            loading: false,
            load_again: false,
            loaded_waiters: Vec::new(),
            waiters_of_next_load: Vec::new(),
            due_running: false,
            next_due: None,
            cursors_due: false,
            heads_running: false,
            heads_at: Instant::now(),
            outages: Outages::default(),
            down_changed: false,
            was_down: false,
            telling_down: false,
            down_told_at: None,
        }
    }

    /// Runs until stopped. Arms in order of priority: the stop; what frees room (durable outcomes, ended requests);
    /// questions; what brings work; the clocks. Each takes something only when it returns it, so all are cancel-safe.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let recorder = self.recorder.take().expect("run takes the recorder once");
        let recorder = tokio::spawn(recorder.run(stop.clone()));
        let mut cursor_clock = clock(CURSOR_INTERVAL);
        let mut look_clock = clock(LOOK_INTERVAL);
        let mut head_clock = clock(HEAD_INTERVAL);
        let mut ended = Vec::with_capacity(ENDED_AT_ONCE);
        loop {
            self.advance();
            let due_at = self.due_at();
            let held_until = self.held.as_ref().map(|held| held.until);
            let wake_at = self.wake_at();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(report) = self.reports.recv() => self.on_report(report),
                // With each heartbeat the lease was renewed.
                Ok(()) = self.member.standing.changed() => {
                    let share = self.member.standing.borrow_and_update().share;
                    self.lanes.set_share(share);
                }
                _ = self.ended.recv_many(&mut ended, ENDED_AT_ONCE) => {
                    self.await_more(&mut ended).await;
                    ended.drain(..).for_each(|ended| self.on_ended(ended));
                }
                Some(command) = self.commands.recv() => self.on_command(command),
                Some(fetched) = self.fetches.join_next() => self.on_fetched(fetched),
                item = next_item(&mut self.feed), if self.held.is_none() => self.on_feed(item),
                () = sleep_until(held_until.unwrap_or_else(Instant::now)), if held_until.is_some() => {}
                () = sleep_until(self.record_at), if self.waits_to_record() => {}
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {}
                () = sleep_until(due_at.unwrap_or_else(Instant::now)), if due_at.is_some() => self.start_due(),
                _ = cursor_clock.tick() => self.cursors_due = true,
                _ = head_clock.tick() => self.look_at_heads(),
                _ = look_clock.tick() => { self.start_load(); self.start_due(); }
            }
        }
        self.finish().await;
        // Dropping our ends lets the recorder go; its session gives the lanes back.
        drop((self.work, self.reports));
        if let Err(error) = recorder.await {
            error!("the recorder ended badly: {error}");
        }
    }

    /// Lets the other tasks have their turn first, and takes what ended meanwhile as well. Requests end one by one, and
    /// what follows costs nearly as much for one as for many.
    async fn await_more(&mut self, ended: &mut Vec<EndedRequest>) {
        tokio::task::yield_now().await;
        while ended.len() < ENDED_AT_ONCE
            && let Ok(next) = self.ended.try_recv()
        {
            ended.push(next);
        }
    }

    /// Starts whatever can be started now.
    fn advance(&mut self) {
        self.take_held();
        self.change_lanes();
        if self.owner {
            self.start_reads();
            self.wake();
            if self.member.lease.is_valid() {
                self.start_attempts();
            }
            self.tell_down();
        }
        if !self.lanes.are_changing() {
            self.start_recording();
        }
    }
}

fn clock(period: Duration) -> tokio::time::Interval {
    let mut clock = interval(period);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock
}

async fn next_item(feed: &mut Option<FeedReceiver>) -> FeedItem {
    match feed {
        Some(feed) => feed.recv().await,
        None => std::future::pending().await,
    }
}
