//! The one task that knows what is to be sent, what is under way and what is done.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::attempt::attempt;
use super::fetch::{self, Fetched, Loaded};
use super::recorder::{Recorder, Report, Work};
use super::trigger_queue::TriggerQueue;
use super::{Client, Command, Endpoint, Parts};
use crate::model::{EventId, Timestamp, Verdict};
use crate::postgres::Pool;
use crate::queue::{CursorMove, FeedItem, FeedReceiver, Settled};

/// Requests under way at a time, of all triggers together.
const MAX_IN_FLIGHT: usize = 1024;
/// Attempts that ended and are not yet durable. With the requests under way, this is what a crash may send again.
const MAX_UNRECORDED: usize = 2048;
/// A trigger's turn, so that a busy one does not keep the others waiting.
const TURN: usize = 16;
const CURSOR_INTERVAL: Duration = Duration::from_secs(2);
/// Behind every hint there is a slow look, because a hint may have gone to another process.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Without a capture in this process the log's end is only known by asking.
const HEAD_INTERVAL: Duration = Duration::from_millis(500);
const READS: usize = 3;

/// See the module's description.
pub(super) struct Dispatcher {
    pool: Pool,
    client: Client,
    environment: crate::model::Environment,
    source_id: i16,
    grace: Duration,
    feed: Option<FeedReceiver>,
    commands: mpsc::Receiver<Command>,
    recorder: Option<Recorder>,
    work: mpsc::Sender<Work>,
    reports: mpsc::Receiver<Report>,
    /// Whether the recorder has something in hand.
    recording: bool,
    /// Whether the lanes are ours: nothing is started otherwise.
    owner: bool,
    triggers: HashMap<Uuid, TriggerQueue>,
    /// Triggers that may have something to send, each at most once.
    turns: VecDeque<Uuid>,
    in_turns: HashSet<Uuid>,
    /// Everything in the log up to this was told by the feed or is known to be unread.
    head: i64,
    in_flight: HashSet<EventId>,
    requests: TaskTracker,
    ended: mpsc::UnboundedReceiver<Settled>,
    ended_sender: mpsc::UnboundedSender<Settled>,
    /// Ended, and to be recorded.
    unrecorded: Vec<Settled>,
    /// Handed to the recorder.
    in_recorder: usize,
    fetches: JoinSet<Fetched>,
    reading: usize,
    /// Whether a trigger may have become ready to read on since the last look at all of them.
    look_for_reads: bool,
    loading: bool,
    load_again: bool,
    loaded_waiters: Vec<oneshot::Sender<()>>,
    waiters_of_next_load: Vec<oneshot::Sender<()>>,
    due_running: bool,
    next_due: Option<Timestamp>,
    cursors_due: bool,
    head_running: bool,
}

impl Dispatcher {
    pub(super) fn new(parts: Parts, client: Client) -> Self {
        let (work, work_receiver) = mpsc::channel(1);
        let (report_sender, reports) = mpsc::channel(4);
        // Its length is bounded by the requests under way.
        let (ended_sender, ended) = mpsc::unbounded_channel();
        let recorder = Recorder {
            database: parts.database,
            source_id: parts.source_id,
            node: Uuid::new_v4(),
            work: work_receiver,
            reports: report_sender,
        };
        Dispatcher {
            pool: parts.pool,
            client,
            environment: parts.environment,
            source_id: parts.source_id,
            grace: parts.grace,
            feed: parts.feed,
            commands: parts.commands,
            recorder: Some(recorder),
            work,
            reports,
            recording: false,
            owner: false,
            triggers: HashMap::new(),
            turns: VecDeque::new(),
            in_turns: HashSet::new(),
            head: 0,
            in_flight: HashSet::new(),
            requests: TaskTracker::new(),
            ended,
            ended_sender,
            unrecorded: Vec::new(),
            in_recorder: 0,
            fetches: JoinSet::new(),
            reading: 0,
            look_for_reads: false,
            loading: false,
            load_again: false,
            loaded_waiters: Vec::new(),
            waiters_of_next_load: Vec::new(),
            due_running: false,
            next_due: None,
            cursors_due: false,
            head_running: false,
        }
    }

    /// Runs until stopped. Arms in order of priority: the stop; what frees room (durable outcomes, ended requests);
    /// questions; what brings work; the clocks. Each takes something only when it returns it, so all are cancel-safe.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let recorder = self.recorder.take().expect("run takes the recorder once");
        let recorder = tokio::spawn(recorder.run(stop.clone()));
        let mut cursor_clock = clock(CURSOR_INTERVAL);
        let mut look_clock = clock(LOOK_INTERVAL);
        let mut head_clock = clock(if self.feed.is_some() { LOOK_INTERVAL } else { HEAD_INTERVAL });
        let mut ended = Vec::with_capacity(256);
        loop {
            self.advance();
            let due_at = self.due_at();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(report) = self.reports.recv() => self.on_report(report),
                _ = self.ended.recv_many(&mut ended, 256) => ended.drain(..).for_each(|settled| self.on_ended(settled)),
                Some(command) = self.commands.recv() => self.on_command(command),
                Some(fetched) = self.fetches.join_next() => self.on_fetched(fetched),
                item = next_item(&mut self.feed) => self.on_feed(item),
                () = sleep_until(due_at.unwrap_or_else(Instant::now)), if due_at.is_some() => self.start_due(),
                _ = cursor_clock.tick() => self.cursors_due = true,
                _ = head_clock.tick() => self.start_head(),
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

    /// Starts whatever can be started now.
    fn advance(&mut self) {
        if self.owner {
            self.start_reads();
            self.start_attempts();
        }
        self.start_recording();
    }

    fn start_attempts(&mut self) {
        while self.in_flight.len() < MAX_IN_FLIGHT && self.in_flight.len() + self.unsettled() < MAX_UNRECORDED {
            let Some(id) = self.turns.pop_front() else { return };
            self.in_turns.remove(&id);
            let Some(queue) = self.triggers.get_mut(&id) else { continue };
            for _ in 0..TURN {
                let Some((ready, endpoint)) = queue.next() else { break };
                self.in_flight.insert(ready.logged.id());
                let (client, ended) = (self.client.clone(), self.ended_sender.clone());
                self.requests.spawn(async move {
                    // Nobody listens after a stop that ran out of time; then the event is sent again.
                    drop(ended.send(attempt(&client, endpoint, ready).await));
                });
            }
            if queue.can_send() {
                self.give_turn(id);
            }
        }
    }

    fn give_turn(&mut self, id: Uuid) {
        if self.in_turns.insert(id) {
            self.turns.push_back(id);
        }
    }

    /// Attempts that ended and are not durable.
    fn unsettled(&self) -> usize {
        self.unrecorded.len() + self.in_recorder
    }

    fn start_reads(&mut self) {
        if !std::mem::take(&mut self.look_for_reads) {
            return;
        }
        for (id, queue) in &mut self.triggers {
            if self.reading >= READS {
                // The end of a read looks again.
                return;
            }
            if let Some(bounds) = queue.wants_read(self.head) {
                self.reading += 1;
                self.fetches.spawn(fetch::backlog(self.pool.clone(), *id, self.source_id, bounds));
            }
        }
    }

    fn start_recording(&mut self) {
        if self.recording {
            return;
        }
        let work = if !self.unrecorded.is_empty() {
            self.in_recorder = self.unrecorded.len();
            Work::Outcomes(std::mem::take(&mut self.unrecorded))
        } else if std::mem::take(&mut self.cursors_due) && self.owner {
            let moves = self.cursor_moves();
            if moves.is_empty() {
                return;
            }
            Work::Cursors(moves)
        } else {
            return;
        };
        self.recording = self.work.try_send(work).is_ok();
    }

    fn cursor_moves(&mut self) -> Vec<CursorMove> {
        let mut moves = Vec::new();
        for (trigger_id, queue) in &mut self.triggers {
            let Some(cursors) = queue.take_cursors(self.head) else { continue };
            let lanes = (0..).zip(cursors).filter(|(_, seq)| *seq > 0);
            moves.extend(lanes.map(|(lane, seq)| CursorMove { trigger_id: *trigger_id, lane, seq }));
        }
        moves
    }

    fn on_report(&mut self, report: Report) {
        match report {
            Report::Owned { anew } => {
                info!("this node delivers");
                self.owner = true;
                if anew {
                    // Others may have delivered meanwhile: what is known of the log is void.
                    self.triggers.clear();
                }
                self.start_load();
                self.start_head();
            }
            Report::Lost => self.owner = false,
            Report::Recorded(batch) => {
                self.recording = false;
                self.in_recorder = 0;
                batch.iter().for_each(|settled| self.on_recorded(settled));
            }
            Report::CursorsWritten => self.recording = false,
        }
    }

    fn on_recorded(&mut self, settled: &Settled) {
        if let Verdict::RetryAt(due) = settled.attempt.verdict {
            self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
        }
        let Some(queue) = self.triggers.get_mut(&settled.trigger_id) else { return };
        queue.recorded(settled);
        self.look_for_reads |= !queue.is_live();
        if queue.more_deferred && queue.deferred_room() > 0 {
            self.next_due = Some(Timestamp::now());
        }
    }

    fn on_ended(&mut self, settled: Settled) {
        self.in_flight.remove(&settled.event_id);
        if let Some(queue) = self.triggers.get_mut(&settled.trigger_id) {
            queue.request_ended();
            self.look_for_reads |= !queue.is_live();
            if queue.can_send() {
                self.give_turn(settled.trigger_id);
            }
        }
        self.unrecorded.push(settled);
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::CatalogueChanged(answer) => {
                // A load that runs already may have read the catalogue before the change.
                self.waiters_of_next_load.push(answer);
                self.start_load();
            }
            Command::IsInFlight(event, answer) => drop(answer.send(self.in_flight.contains(&event))),
            Command::DeferredAdded => self.next_due = Some(Timestamp::now()),
        }
    }

    fn on_feed(&mut self, item: FeedItem) {
        match item {
            FeedItem::Head(head) => self.on_head(head),
            FeedItem::Handover(handover) => {
                let Some((first, last)) = handover.events.first().zip(handover.events.last()) else { return };
                let (first, last) = (first.seq, last.seq);
                if first > self.head + 1 {
                    self.on_head(first - 1);
                }
                for logged in handover.events {
                    // The same events come again after a capture that restarted.
                    if logged.seq <= self.head {
                        continue;
                    }
                    let id = logged.event.trigger_id;
                    let Some(queue) = self.triggers.get_mut(&id) else { continue };
                    queue.offer(logged);
                    self.look_for_reads |= !queue.is_live();
                    if queue.can_send() {
                        self.give_turn(id);
                    }
                }
                self.head = self.head.max(last);
            }
        }
    }

    /// The log ends here, and nobody told what lies between.
    fn on_head(&mut self, head: i64) {
        if head > self.head {
            self.triggers.values_mut().for_each(|queue| queue.missed(self.head));
            self.look_for_reads = true;
            self.head = head;
        }
    }

    fn on_fetched(&mut self, fetched: Result<Fetched, tokio::task::JoinError>) {
        match fetched.expect("a fetch neither panics nor is aborted while the dispatcher runs") {
            Fetched::Backlog { trigger_id, backlog } => {
                self.reading -= 1;
                self.look_for_reads = true;
                if let Some(queue) = self.triggers.get_mut(&trigger_id) {
                    queue.read(backlog);
                    if queue.can_send() {
                        self.give_turn(trigger_id);
                    }
                }
            }
            Fetched::BacklogFailed { trigger_id } => {
                self.reading -= 1;
                self.look_for_reads = true;
                if let Some(queue) = self.triggers.get_mut(&trigger_id) {
                    queue.read_failed();
                }
            }
            Fetched::Due { events, next, at } => self.on_due(events, next, at),
            Fetched::DueFailed => {
                self.due_running = false;
                self.next_due = Some(Timestamp::now());
            }
            Fetched::Catalogue(loaded) => self.on_loaded(loaded),
            Fetched::CatalogueFailed => {
                self.loading = false;
                self.waiters_of_next_load.append(&mut self.loaded_waiters);
                self.start_load();
            }
            Fetched::Head(head) => {
                self.head_running = false;
                head.into_iter().for_each(|head| self.on_head(head));
            }
        }
    }

    fn on_due(&mut self, events: Vec<crate::queue::Deferred>, next: Option<Timestamp>, at: Timestamp) {
        self.due_running = false;
        // What was recorded while the query ran may be due earlier than it knew.
        let noted = self.next_due.filter(|noted| *noted > at);
        self.next_due = [noted, next].into_iter().flatten().min();
        for deferred in events {
            let id = deferred.logged.event.trigger_id;
            let Some(queue) = self.triggers.get_mut(&id) else { continue };
            queue.take_deferred(deferred);
            queue.more_deferred = queue.deferred_room() == 0;
            if queue.can_send() {
                self.give_turn(id);
            }
        }
    }

    fn on_loaded(&mut self, loaded: Vec<Loaded>) {
        self.loading = false;
        answer(&mut self.loaded_waiters);
        let live: HashSet<Uuid> = loaded.iter().map(|loaded| loaded.trigger.id).collect();
        self.triggers.retain(|id, _| live.contains(id));
        for Loaded { trigger, place } in loaded {
            let endpoint = Endpoint::resolve(&trigger, &self.environment).map(Arc::new);
            match (self.triggers.get_mut(&trigger.id), place) {
                (Some(queue), _) => queue.endpoint = endpoint,
                (None, Some((floor, attempted))) => {
                    if let Err(reason) = &endpoint {
                        let name = &trigger.definition.name;
                        warn!(trigger = name, "its events wait: {reason}; set it and start walhook again");
                    }
                    self.triggers.insert(trigger.id, TriggerQueue::new(endpoint, floor, attempted));
                }
                // Dropped between the question and the answer: the next load asks for its place.
                (None, None) => self.load_again = true,
            }
            if self.triggers.get(&trigger.id).is_some_and(TriggerQueue::can_send) {
                self.give_turn(trigger.id);
            }
        }
        self.look_for_reads = true;
        self.next_due = Some(Timestamp::now());
        if self.load_again || !self.waiters_of_next_load.is_empty() {
            self.start_load();
        }
    }

    fn start_load(&mut self) {
        if !self.owner {
            // A node that only stands by has nothing to load; whoever asked need not wait.
            answer(&mut self.waiters_of_next_load);
            return;
        }
        if self.loading {
            self.load_again = true;
            return;
        }
        self.loading = true;
        self.load_again = false;
        self.loaded_waiters.append(&mut self.waiters_of_next_load);
        let known = self.triggers.keys().copied().collect();
        self.fetches.spawn(fetch::catalogue(self.pool.clone(), self.source_id, known));
    }

    fn start_head(&mut self) {
        if self.owner && !std::mem::replace(&mut self.head_running, true) {
            self.fetches.spawn(fetch::head(self.pool.clone(), self.source_id));
        } else if !self.owner {
            self.head_running = false;
        }
    }

    fn due_at(&self) -> Option<Instant> {
        let wait = self.next_due.filter(|_| self.owner && !self.due_running)?.0 - Timestamp::now().0;
        Some(Instant::now() + Duration::from_micros(u64::try_from(wait).unwrap_or(0)))
    }

    fn start_due(&mut self) {
        if !self.owner || self.due_running {
            return;
        }
        let mut room = Vec::new();
        for (id, queue) in &self.triggers {
            if let Some(places) = i64::try_from(queue.deferred_room()).ok().filter(|places| *places > 0) {
                room.push((*id, places));
            }
        }
        if room.is_empty() {
            self.next_due = None;
            return;
        }
        let in_hand = self.triggers.values().flat_map(TriggerQueue::deferred_in_hand).collect();
        self.due_running = true;
        self.fetches.spawn(fetch::due(self.pool.clone(), room, in_hand));
    }

    /// After the stop: nothing new is started; what is under way may end within the grace time, and is recorded.
    async fn finish(&mut self) {
        self.fetches.abort_all();
        self.requests.close();
        let deadline = Instant::now() + self.grace;
        self.cursors_due = true;
        while self.owner
            && !(self.in_flight.is_empty() && self.unsettled() == 0 && !self.recording && !self.cursors_due)
        {
            self.start_recording();
            if self.in_flight.is_empty() && self.unsettled() == 0 && !self.recording {
                return;
            }
            tokio::select! {
                biased;
                Some(report) = self.reports.recv() => match report {
                    // Cursors once more, behind the last outcomes.
                    Report::Recorded(batch) => {
                        self.cursors_due = true;
                        self.on_report(Report::Recorded(batch));
                    }
                    Report::Owned { .. } => {}
                    report => self.on_report(report),
                },
                Some(settled) = self.ended.recv() => self.on_ended(settled),
                () = sleep_until(deadline) => {
                    let left = self.in_flight.len() + self.unsettled();
                    warn!("the grace time is over: {left} events will be sent again after the next start");
                    return;
                }
            }
        }
    }
}

/// Whoever asked may have given up meanwhile.
fn answer(waiters: &mut Vec<oneshot::Sender<()>>) {
    for waiter in waiters.drain(..) {
        let _ = waiter.send(());
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
