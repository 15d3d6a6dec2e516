//! One trigger's share of the work: what is ready to be sent, what is under way, and what is still to be read from the
//! log. No I/O: the dispatcher asks what to do and tells what happened.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::Endpoint;
use super::failures::Failures;
use super::limiter::{DEFAULT_MAX_IN_FLIGHT, Limiter, Load};
use super::outages::Flow;
use super::pause::Pause;
use super::tracker::Tracker;
use crate::model::{EventId, LANES, Verdict};
use crate::queue::{Backlog, Bounds, Deferred, Logged, Settled};

const MAX_READY: usize = 4_000;
/// What all triggers together may hold in memory, shared evenly between them.
const READY_BYTES_OF_ALL: usize = 16 * 1024 * 1024;
const READY_BYTES_OF_ONE: std::ops::RangeInclusive<usize> = 64 * 1024..=4 * 1024 * 1024;
/// An event beside its row text.
const EVENT_BYTES: usize = 256;
/// Events between the oldest that is not done and the newest that was taken: what a restart has to look at again.
const MAX_WINDOW: usize = 65_536;
const MAX_DEFERRED_IN_HAND: usize = 64;
/// A trigger that started no request for this long is stuck, and not just short of room for a moment.
const STUCK_AFTER: Duration = Duration::from_millis(200);

/// An event that may be sent now.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) logged: Logged,
    /// Attempts already made in this round.
    pub(super) number: u32,
    /// Whether it came from `deferred`.
    pub(super) deferred: bool,
}

/// How the trigger gets its events from the log.
#[derive(Debug)]
enum Intake {
    /// Everything up to the log's end was taken; new events come from the feed.
    Live,
    /// There may be events after `taken_to` that were not taken.
    Behind,
    /// They are being read. What the feed brings meanwhile is kept in order behind them, unless it became too much.
    Reading { up_to: i64, tail: Option<Tail> },
}

/// Events from the feed that come after what is being read.
#[derive(Debug, Default)]
struct Tail {
    events: Vec<Logged>,
    bytes: usize,
}

impl Tail {
    fn is_full(&self, allowance: usize) -> bool {
        self.bytes >= allowance || self.events.len() >= MAX_READY
    }
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct TriggerQueue {
    /// Whose events it takes, as `walhook.source.id` of the queue.
    pub(super) source_id: i16,
    pub(super) endpoint: Result<Arc<Endpoint>, String>,
    /// Whether its events are held.
    pub(super) pause: Pause,
    ready: VecDeque<Ready>,
    ready_bytes: usize,
    /// The most that `ready_bytes` may come to, passed by one event at most.
    allowance: usize,
    /// Bytes of row text of an event, about, as the last ones had.
    usual_size: usize,
    limiter: Limiter,
    flow: Flow,
    tracker: Tracker,
    /// How far the log was taken; follows the log's end while live.
    taken_to: i64,
    intake: Intake,
    /// Each lane's cursor at take-over: what is not after it is done.
    floor: [i64; LANES as usize],
    /// Events after the cursors that were attempted before the take-over.
    attempted: HashSet<i64>,
    had_event_at: Option<Instant>,
    deferred_in_hand: HashSet<EventId>,
    /// There were more due events than room.
    pub(super) more_deferred: bool,
    /// Whether the cursors may have moved since they were written.
    dirty: bool,
    failures: Failures,
}

impl TriggerQueue {
    /// A queue that goes on from these cursors.
    pub(super) fn new(
        source_id: i16,
        endpoint: Result<Arc<Endpoint>, String>,
        floor: [i64; LANES as usize],
        attempted: HashSet<i64>,
    ) -> Self {
        let taken_to = floor.iter().copied().min().unwrap_or(0);
        TriggerQueue {
            source_id,
            endpoint,
            pause: Pause::default(),
            ready: VecDeque::new(),
            ready_bytes: 0,
            allowance: *READY_BYTES_OF_ONE.start(),
            usual_size: 0,
            limiter: Limiter::new(DEFAULT_MAX_IN_FLIGHT),
            flow: Flow::Free,
            tracker: Tracker::default(),
            taken_to,
            intake: Intake::Behind,
            floor,
            attempted,
            had_event_at: None,
            deferred_in_hand: HashSet::new(),
            more_deferred: false,
            dirty: false,
            failures: Failures::default(),
        }
    }

    /// Whether it may read and send at all.
    fn is_open(&self) -> bool {
        self.endpoint.is_ok() && !self.pause.is_on()
    }

    /// Sets the trigger's share of memory, by how many triggers there are.
    pub(super) fn share_memory(&mut self, triggers: usize) {
        let share = READY_BYTES_OF_ALL / triggers.max(1);
        self.allowance = share.clamp(*READY_BYTES_OF_ONE.start(), *READY_BYTES_OF_ONE.end());
    }

    /// Takes an event that the feed brought at this time, if this trigger is that far.
    pub(super) fn offer(&mut self, logged: Logged, at: Instant) {
        self.had_event_at = Some(at);
        self.take_from_feed(logged);
    }

    fn take_from_feed(&mut self, logged: Logged) {
        let room = self.has_room() && self.is_open();
        match &mut self.intake {
            Intake::Live if room => {
                self.taken_to = logged.seq;
                self.take(logged);
            }
            Intake::Live => {
                self.taken_to = logged.seq - 1;
                self.intake = Intake::Behind;
            }
            Intake::Reading { tail: tail @ Some(_), .. } => {
                let kept = tail.get_or_insert_default();
                if kept.is_full(self.allowance) {
                    *tail = None;
                    return;
                }
                kept.bytes += logged.event.size() + EVENT_BYTES;
                kept.events.push(logged);
            }
            Intake::Behind | Intake::Reading { tail: None, .. } => {}
        }
    }

    /// When the feed last brought an event.
    pub(super) fn had_event_at(&self) -> Option<Instant> {
        self.had_event_at
    }

    /// Whether it could send an event at once if it had one.
    pub(super) fn is_idle(&self) -> bool {
        self.is_live() && self.ready.is_empty() && self.is_open() && self.flow == Flow::Free
    }

    /// Whether it takes what comes, or would within a moment, but has no room just now. `head` is the log's end.
    pub(super) fn is_short_of_room(&self, head: i64) -> bool {
        let in_reach = head - self.taken_to <= MAX_READY as i64;
        let is_short = match &self.intake {
            _ if !self.is_open() || self.flow != Flow::Free => false,
            Intake::Live => !self.has_room(),
            Intake::Reading { tail: Some(tail), .. } => tail.is_full(self.allowance),
            Intake::Behind | Intake::Reading { tail: None, .. } => in_reach,
        };
        is_short && self.limiter.started_at().is_none_or(|at| at.elapsed() < STUCK_AFTER)
    }

    /// Whether everything that the log holds was taken.
    pub(super) fn is_live(&self) -> bool {
        matches!(self.intake, Intake::Live)
    }

    /// The log ends further on than the feed told events for; `from` is where it told them to.
    pub(super) fn missed(&mut self, from: i64) {
        match &mut self.intake {
            Intake::Live => {
                self.taken_to = self.taken_to.max(from);
                self.intake = Intake::Behind;
            }
            Intake::Reading { tail, .. } => *tail = None,
            Intake::Behind => {}
        }
    }

    /// What to read from the log now, if anything. The caller must answer with `read` or `read_failed`.
    pub(super) fn wants_read(&mut self, head: i64) -> Option<Bounds> {
        let Intake::Behind = self.intake else { return None };
        if !self.is_open() {
            return None;
        }
        if self.taken_to >= head {
            self.intake = Intake::Live;
            return None;
        }
        // A read for a few events costs as much as one for many: half of the room must be free.
        if self.ready.len() > MAX_READY / 2 || self.ready_bytes > self.allowance / 2 || !self.has_room() {
            return None;
        }
        self.intake = Intake::Reading { up_to: head, tail: Some(Tail::default()) };
        let bytes = self.allowance - self.ready_bytes;
        // Rows beyond the bytes would be looked at in vain, so about as many are asked for as will fit.
        let fitting = match self.flow {
            Flow::Free => bytes / (self.usual_size + EVENT_BYTES) + 1,
            Flow::Held | Flow::Probe => 1,
        };
        let rows = fitting.min(MAX_READY - self.ready.len()) as i64;
        let bytes = bytes as i64;
        Some(Bounds { after: self.taken_to, up_to: head, rows, bytes })
    }

    /// Takes what was read. When that was all, what the feed brought meanwhile follows without a gap.
    pub(super) fn read(&mut self, backlog: Backlog) {
        let Intake::Reading { up_to, tail } = std::mem::replace(&mut self.intake, Intake::Behind) else { return };
        self.dirty |= !backlog.events.is_empty();
        for logged in backlog.events {
            self.taken_to = logged.seq;
            let lane = usize::from(logged.event.lane % LANES);
            let done = logged.seq <= self.floor[lane] || self.attempted.remove(&logged.seq);
            if !done {
                self.take(logged);
            }
        }
        if !backlog.complete {
            return;
        }
        self.taken_to = self.taken_to.max(up_to);
        // What was attempted before the take-over lies behind now.
        self.attempted = HashSet::new();
        if let Some(tail) = tail {
            self.intake = Intake::Live;
            tail.events.into_iter().for_each(|logged| self.take_from_feed(logged));
        }
    }

    /// The read did not work; it is asked for again.
    pub(super) fn read_failed(&mut self) {
        self.intake = Intake::Behind;
    }

    fn take(&mut self, logged: Logged) {
        self.usual_size = (self.usual_size * 7 + logged.event.size()) / 8;
        self.tracker.start(logged.event.lane, logged.seq);
        self.dirty = true;
        self.push(Ready { logged, number: 0, deferred: false });
    }

    fn push(&mut self, ready: Ready) {
        self.ready_bytes += ready.logged.event.size() + EVENT_BYTES;
        self.ready.push_back(ready);
    }

    fn has_room(&self) -> bool {
        if self.flow != Flow::Free {
            // One, for the next probe.
            return self.ready.is_empty();
        }
        self.ready.len() < MAX_READY && self.ready_bytes < self.allowance && self.tracker.len() < MAX_WINDOW
    }

    /// How many due deferred events may be fetched.
    pub(super) fn deferred_room(&self) -> usize {
        match self.flow {
            _ if !self.is_open() => 0,
            Flow::Free => MAX_DEFERRED_IN_HAND.saturating_sub(self.deferred_in_hand.len()),
            Flow::Held | Flow::Probe => usize::from(self.ready.is_empty()),
        }
    }

    /// Takes a due deferred event.
    pub(super) fn take_deferred(&mut self, deferred: Deferred) {
        if self.deferred_in_hand.insert(deferred.logged.id()) {
            self.push(Ready { logged: deferred.logged, number: deferred.number, deferred: true });
        }
    }

    /// The deferred events that must not be fetched again.
    pub(super) fn deferred_in_hand(&self) -> impl Iterator<Item = EventId> {
        self.deferred_in_hand.iter().copied()
    }

    /// Whether this deferred event was fetched and is not settled.
    pub(super) fn has_deferred(&self, event: EventId) -> bool {
        self.deferred_in_hand.contains(&event)
    }

    /// Its endpoint opened, closed, or is to be probed. After an outage it begins slowly.
    pub(super) fn set_flow(&mut self, flow: Flow) {
        if self.flow != Flow::Free && flow == Flow::Free {
            self.limiter.begin_anew(Instant::now());
        }
        self.flow = flow;
    }

    /// Whether the next event is a probe.
    pub(super) fn is_probing(&self) -> bool {
        self.flow == Flow::Probe
    }

    /// Whether `next` would give an event.
    pub(super) fn can_send(&self) -> bool {
        let may_start = match self.flow {
            Flow::Free => self.limiter.has_place(),
            Flow::Probe => true,
            Flow::Held => false,
        };
        may_start && !self.ready.is_empty() && self.is_open()
    }

    /// The next event to send, which counts as in flight from now on.
    pub(super) fn next(&mut self) -> Option<(Ready, Arc<Endpoint>)> {
        if !self.can_send() {
            return None;
        }
        let endpoint = Arc::clone(self.endpoint.as_ref().ok()?);
        let ready = self.ready.pop_front()?;
        self.ready_bytes -= ready.logged.event.size() + EVENT_BYTES;
        self.limiter.started(Instant::now());
        Some((ready, endpoint))
    }

    /// A request that was started then ended, whatever its outcome.
    pub(super) fn request_ended(&mut self, settled: &Settled, started_at: Instant) {
        self.limiter.ended(Load::of(&settled.attempt.outcome), started_at, Instant::now());
        if settled.attempt.verdict == Verdict::Paused && self.pause.endpoint_is_gone() {
            let trigger = self.endpoint.as_ref().map_or("", |endpoint| &endpoint.name);
            warn!(trigger, "its endpoint answered 410 Gone twice, so it is paused and its events are held; resume it");
        } else if let Ok(endpoint) = &self.endpoint {
            self.failures.note(&endpoint.name, &settled.attempt);
        }
    }

    /// The outcome of an event is durable.
    pub(super) fn recorded(&mut self, settled: &Settled) {
        self.dirty = true;
        if settled.was_deferred {
            self.deferred_in_hand.remove(&settled.event_id);
        } else {
            self.tracker.finish(settled.lane, settled.seq);
        }
    }

    /// The cursors, if they may have moved. While live the log was taken to its end.
    pub(super) fn take_cursors(&mut self, head: i64) -> Option<[i64; LANES as usize]> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        if let Intake::Live = self.intake {
            self.taken_to = self.taken_to.max(head);
        }
        let moved = self.tracker.cursors(self.taken_to);
        Some(std::array::from_fn(|lane| moved[lane].max(self.floor[lane])))
    }
}
