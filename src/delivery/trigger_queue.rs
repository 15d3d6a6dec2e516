//! One trigger's share of the work: what is ready to be sent, what is under way, and what is still to be read from the
//! log. No I/O: the dispatcher asks what to do and tells what happened.

pub(super) mod batching;
mod ended;
mod lanes;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::Endpoint;
use super::failures::Failures;
use super::figures::Meter;
use super::hand::{Hand, Room};
use super::intake::{Intake, REACH, Tail};
use super::limiter::Limiter;
use super::outages::Flow;
use super::pause::Pause;
use super::rows::{EVENT_BYTES, Ready, Rows};
use super::tracker::Tracker;
use crate::model::{LANES, LaneSet, Limits, Ordering};
use crate::queue::{Backlog, Bounds, Deferred, DueRoom, Floor, Logged, Parked, Settled, Skipped};

const MAX_READY: usize = 4_000;
/// What all triggers together may hold in memory, shared evenly between them.
const READY_BYTES_OF_ALL: usize = 16 * 1024 * 1024;
const READY_BYTES_OF_ONE: std::ops::RangeInclusive<usize> = 64 * 1024..=4 * 1024 * 1024;
/// Events between the oldest that is not done and the newest that was taken: what a restart has to look at again.
const MAX_WINDOW: usize = 65_536;
/// Rows that all triggers together remember as held, shared evenly between them. One that has as many takes nothing
/// more from the log, which may be of another row that is going to fail.
const HELD_ROWS_OF_ALL: usize = 65_536;
const HELD_ROWS_OF_ONE: std::ops::RangeInclusive<usize> = 256..=4_096;
/// A trigger that started no request for this long is stuck, and not just short of room for a moment.
const STUCK_AFTER: Duration = Duration::from_millis(200);

/// See the module's description.
#[derive(Debug)]
pub(super) struct TriggerQueue {
    /// Whose events it takes, as `walhook.source.id` of the queue.
    pub(super) source_id: i16,
    pub(super) endpoint: Result<Arc<Endpoint>, String>,
    /// Whether its events are held.
    pub(super) pause: Pause,
    /// What is in memory and not under way.
    pub(super) rows: Rows,
    /// The most bytes that `rows` may come to, passed by one event at most.
    allowance: usize,
    /// The most held rows before the log is left alone.
    held_allowance: usize,
    /// Bytes of row text of an event, about, as the last ones had.
    usual_size: usize,
    pub(super) limiter: Limiter,
    flow: Flow,
    tracker: Tracker,
    /// How far the log was taken; follows the log's end while live.
    taken_to: i64,
    intake: Intake,
    /// Whether there are, or lately were, events for it in the log that the feed did not bring.
    has_backlog: bool,
    /// As in [`Place`](super::fetch::Place).
    lanes: LaneSet,
    floor: Floor,
    dealt_with: HashSet<i64>,
    had_event_at: Option<Instant>,
    /// The deferred events that are in memory.
    pub(super) hand: Hand,
    /// Whether the cursors may have moved since they were written.
    dirty: bool,
    /// How far the log was taken when they were.
    saved_to: i64,
    failures: Failures,
    /// What is counted of its attempts.
    pub(super) meter: Meter,
    learnt: batching::Learnt,
}

impl TriggerQueue {
    /// A queue that takes nothing yet.
    pub(super) fn new(source_id: i16, endpoint: Result<Arc<Endpoint>, String>) -> Self {
        TriggerQueue {
            source_id,
            endpoint,
            pause: Pause::default(),
            rows: Rows::default(),
            allowance: *READY_BYTES_OF_ONE.start(),
            held_allowance: *HELD_ROWS_OF_ONE.start(),
            usual_size: 0,
            limiter: Limiter::new(Limits::default()),
            flow: Flow::Free,
            tracker: Tracker::default(),
            taken_to: i64::MAX,
            intake: Intake::Behind,
            has_backlog: false,
            lanes: LaneSet::NONE,
            floor: [i64::MAX; LANES as usize],
            dealt_with: HashSet::new(),
            had_event_at: None,
            hand: Hand::default(),
            dirty: false,
            saved_to: 0,
            failures: Failures::default(),
            meter: Meter::default(),
            learnt: batching::Learnt::default(),
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
        let share = HELD_ROWS_OF_ALL / triggers.max(1);
        self.held_allowance = share.clamp(*HELD_ROWS_OF_ONE.start(), *HELD_ROWS_OF_ONE.end());
        self.hand.share(triggers);
    }

    /// Takes an event that the feed brought at this time, if this trigger is that far.
    pub(super) fn offer(&mut self, logged: Logged, at: Instant) {
        self.had_event_at = Some(at);
        self.take_from_feed(logged);
    }

    fn take_from_feed(&mut self, logged: Logged) {
        let room = self.has_room() && self.is_open();
        match &mut self.intake {
            Intake::Live if room => self.take(logged),
            Intake::Live => {
                self.taken_to = self.taken_to.max(logged.seq - 1);
                (self.intake, self.has_backlog) = (Intake::Behind, true);
            }
            Intake::Reading { tail: tail @ Some(_), .. } => {
                let kept = tail.get_or_insert_default();
                if kept.is_full(self.allowance, MAX_READY) {
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
        self.is_live() && self.rows.len() == 0 && self.is_open() && self.flow == Flow::Free
    }

    /// Whether it takes what comes, or would within a moment, but has no room just now. `head` is the log's end.
    pub(super) fn is_short_of_room(&self, head: i64) -> bool {
        let in_reach = head - self.taken_to <= REACH;
        let is_short = match &self.intake {
            _ if !self.is_open() || self.flow != Flow::Free => false,
            Intake::Live => !self.has_room(),
            Intake::Reading { tail: Some(tail), .. } => tail.is_full(self.allowance, MAX_READY),
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
        if self.rows.len() > MAX_READY / 2 || self.rows.bytes() > self.allowance / 2 || !self.has_room() {
            return None;
        }
        let bytes = self.allowance - self.rows.bytes();
        // Rows beyond the bytes would be looked at in vain, so about as many are asked for as will fit.
        let fitting = match self.flow {
            Flow::Free => bytes / (self.usual_size + EVENT_BYTES) + 1,
            Flow::Held | Flow::Probe => 1,
        };
        let (rows, bytes) = (fitting.min(MAX_READY - self.rows.len()) as i64, bytes as i64);
        // Where this read may not come to the end, what the feed brings would be taken in vain; not taken, it waits.
        let tail = (head - self.taken_to <= rows).then(Tail::default);
        self.intake = Intake::Reading { up_to: head, tail };
        Some(Bounds { after: self.taken_to, up_to: head, rows, bytes, floor: self.floor })
    }

    /// Takes what was read. When that was all, what the feed brought meanwhile follows without a gap.
    pub(super) fn read(&mut self, backlog: Backlog) {
        let Intake::Reading { up_to, tail } = std::mem::replace(&mut self.intake, Intake::Behind) else { return };
        self.dirty |= !backlog.events.is_empty();
        self.has_backlog = !backlog.events.is_empty() || !backlog.complete;
        backlog.events.into_iter().for_each(|logged| self.take(logged));
        if !backlog.complete {
            return;
        }
        self.taken_to = self.taken_to.max(up_to);
        // The log's end may be known late: what was dealt with before the take-over may lie beyond it.
        self.dealt_with.retain(|seq| *seq > self.taken_to);
        if let Some(tail) = tail {
            self.intake = Intake::Live;
            tail.events.into_iter().for_each(|logged| self.take_from_feed(logged));
        }
    }

    /// The read did not work; it is asked for again.
    pub(super) fn read_failed(&mut self) {
        self.intake = Intake::Behind;
    }

    /// In place of a read: there is something to be read, which is to be asked for again.
    pub(super) fn has_news(&mut self) {
        (self.intake, self.has_backlog) = (Intake::Behind, true);
    }

    /// Whether to read its log is worth it, as far as is known.
    pub(super) fn has_backlog(&self) -> bool {
        self.has_backlog
    }

    /// Takes the log's next event, unless it was dealt with before its lane was got. That may be one of the feed: who
    /// reads the log can be ahead of who is handed it.
    fn take(&mut self, logged: Logged) {
        self.taken_to = self.taken_to.max(logged.seq);
        let floor = self.floor[usize::from(logged.event.lane % LANES)];
        if logged.seq <= floor || self.dealt_with.remove(&logged.seq) {
            return;
        }
        self.usual_size = (self.usual_size * 7 + logged.event.size()) / 8;
        self.tracker.start(logged.event.lane, logged.seq);
        self.dirty = true;
        self.rows.push_fresh(logged);
    }

    fn has_room(&self) -> bool {
        let in_memory = self.rows.len() < MAX_READY && self.rows.bytes() < self.allowance;
        // While the endpoint is down one event is enough, for the next probe, also where it has to wait.
        let wanted = self.flow == Flow::Free || !self.can_go() && !self.rows.has_fresh();
        wanted && in_memory && self.tracker.len() < MAX_WINDOW && self.rows.held() < self.held_allowance
    }

    /// How many due deferred events may be fetched. Half as much again as its memory, so that it need not wait for the
    /// log to have room.
    pub(super) fn due_room(&self, trigger_id: Uuid) -> Option<DueRoom> {
        let endpoint = self.endpoint.as_ref().ok().filter(|_| self.is_open())?;
        let room = match self.flow {
            Flow::Free => self.hand.room(),
            Flow::Held | Flow::Probe => Room { due: usize::from(!self.can_go()), following: 0 },
        };
        let bytes = (self.allowance + self.allowance / 2).saturating_sub(self.rows.bytes());
        // Under another ordering those of a row do not wait for each other in memory.
        let following = if endpoint.ordering == Ordering::Row { room.following } else { 0 };
        let [due, bytes, following] = [room.due, bytes, following].map(|number| number as i64);
        (due > 0 && bytes > 0).then_some(DueRoom { trigger_id, due, bytes, following })
    }

    /// Takes a due deferred event.
    pub(super) fn take_deferred(&mut self, deferred: Deferred) {
        if self.hand.take(deferred.logged.id(), deferred.follows) {
            self.rows.push_deferred(deferred);
        }
    }

    /// Whether the rest of what was due is to be fetched.
    pub(super) fn wants_due(&self) -> bool {
        self.hand.wants_more(self.rows.len()) && self.due_room(Uuid::nil()).is_some()
    }

    /// Its endpoint opened, closed, or is to be probed. After an outage it begins slowly.
    pub(super) fn set_flow(&mut self, flow: Flow) {
        if self.flow != Flow::Free && flow == Flow::Free {
            self.limiter.begin_anew(Instant::now());
        }
        if flow != Flow::Free {
            self.rows.scatter();
        }
        self.flow = flow;
    }

    /// Whether the next event is a probe.
    pub(super) fn is_probing(&self) -> bool {
        self.flow == Flow::Probe
    }

    /// Whether `next` may give an event, now or when the rate allows it.
    pub(super) fn can_send(&self) -> bool {
        let may_start = match self.flow {
            Flow::Free => self.limiter.has_place(),
            Flow::Probe => true,
            Flow::Held => false,
        };
        may_start && self.can_go() && self.is_open()
    }

    fn can_go(&self) -> bool {
        self.endpoint.as_ref().is_ok_and(|endpoint| self.rows.can_go(endpoint.ordering))
    }

    /// The next event to send, which counts as in flight from now on.
    pub(super) fn next(&mut self) -> Option<(Ready, Arc<Endpoint>)> {
        let now = Instant::now();
        if !self.can_send() || self.limiter.ready_at().is_some_and(|at| at > now) {
            return None;
        }
        let endpoint = Arc::clone(self.endpoint.as_ref().ok()?);
        let ready = self.rows.next(endpoint.ordering)?;
        self.limiter.started(ready.bytes(), now);
        Some((ready, endpoint))
    }

    /// The outcome of an event is durable. `still_held`: others were released or are parked in the row it held.
    pub(super) fn recorded(&mut self, settled: &Settled, still_held: bool) {
        self.dirty = true;
        if !self.lanes.contains(settled.lane) {
            // Where the ordering was replaced, what is of another lane may be what the whole trigger waits for.
            self.unlock(settled);
            return;
        }
        if settled.asked_again {
            self.drop_behind(settled);
        }
        match settled.holds {
            Some(row) if settled.is_waiting() => self.rows.hold(row),
            Some(row) if settled.was_deferred() && !still_held => self.rows.free(row),
            _ => {}
        }
        self.unlock(settled);
        if settled.was_deferred() {
            self.hand.put_back(settled.event_id);
        } else {
            self.tracker.finish(settled.lane, settled.seq);
        }
    }

    /// Whether `take_parked` would give events.
    pub(super) fn wants_to_park(&self) -> bool {
        self.rows.wants_to_park()
    }

    /// Takes the events that are to be parked.
    pub(super) fn take_parked(&mut self) -> Vec<Parked> {
        self.rows.take_parked()
    }

    /// An event is durably parked.
    pub(super) fn parked(&mut self, parked: &Parked) {
        self.dirty = true;
        self.tracker.finish(parked.lane, parked.seq);
    }

    /// It is not deferred any more. `still_held` as in `recorded`.
    pub(super) fn skipped(&mut self, skipped: &Skipped, still_held: bool) {
        self.hand.put_back(skipped.event_id);
        if let Some(row) = skipped.holds.filter(|_| !still_held) {
            self.rows.free(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::fetch::Place;
    use crate::model::Event;

    fn queue(held: Vec<crate::model::RowHash>) -> TriggerQueue {
        let (lanes, floor) = (LaneSet::ALL, [0; LANES as usize]);
        let mut queue = TriggerQueue::new(1, Ok(Arc::new(Endpoint::example())));
        queue.restart(Place { lanes, floor, dealt_with: HashSet::new(), held }, &[]);
        queue.share_memory(1);
        queue
    }

    fn logged(seq: i64) -> Logged {
        Logged { seq, source_id: 1, event: Event::example(seq as u64), replay_id: None }
    }

    #[test]
    fn a_trigger_with_too_many_held_rows_leaves_the_log_alone_until_some_are_free() {
        let mut queue = queue((1..=5_000).collect());
        assert!(queue.wants_read(100).is_none());
        (1..=1_000).for_each(|row| queue.rows.free(row));
        assert!(queue.wants_read(100).is_some());
    }

    /// A node that was cut off from the database takes lanes over before it hears how far the log goes.
    #[test]
    fn what_was_dealt_with_beyond_the_end_that_is_known_is_not_sent_again() {
        let mut queue = queue(Vec::new());
        queue.dealt_with = [90, 150].into_iter().collect();
        for (head, seqs, taken) in [(100, [90, 95], 1), (200, [150, 160], 2)] {
            assert!(queue.wants_read(head).is_some());
            let events = seqs.map(logged).into();
            queue.read(Backlog { events, complete: true, ..Backlog::default() });
            assert_eq!(queue.rows.len(), taken, "{head}");
            queue.missed(head);
        }
    }

    /// Another node was ahead in lanes that it gave back, while what it dealt with waits in our feed.
    #[test]
    fn what_was_dealt_with_before_its_lane_was_got_is_not_taken_from_the_feed() {
        let mut queue = queue(Vec::new());
        queue.floor = [10; LANES as usize];
        queue.dealt_with = [12, 14].into_iter().collect();
        queue.taken_to = 10;
        assert!(queue.wants_read(10).is_none() && queue.is_live());
        let offer = |queue: &mut TriggerQueue, seqs: std::ops::RangeInclusive<i64>| {
            seqs.for_each(|seq| queue.offer(logged(seq), Instant::now()));
        };
        offer(&mut queue, 9..=13);
        assert_eq!((queue.rows.len(), queue.taken_to), (2, 13), "11 and 13");
        queue.missed(13);
        assert!(queue.wants_read(15).is_some());
        offer(&mut queue, 16..=17);
        queue.dealt_with.insert(16);
        let events = vec![logged(14), logged(15)];
        queue.read(Backlog { events, complete: true, ..Backlog::default() });
        assert_eq!((queue.rows.len(), queue.taken_to), (4, 17), "15 and 17");
        assert!(queue.dealt_with.is_empty());
    }

    /// While it reads what does not reach the log's end, nothing of the feed could follow without a gap.
    #[test]
    fn the_feed_waits_for_a_trigger_that_catches_up_with_it_and_for_no_other() {
        for (head, waits) in [(100, false), (4_000, false), (4_001, true), (65_536, true), (65_537, false)] {
            let mut queue = queue(Vec::new());
            assert!(queue.wants_read(head).is_some());
            assert_eq!(queue.is_short_of_room(head), waits, "{head}");
        }
    }
}
