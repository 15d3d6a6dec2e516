//! What the dispatcher starts: attempts, reads, recordings.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::{BETWEEN_RECORDINGS, Dispatcher, HEAD_INTERVAL_TOLD, MUCH_TO_RECORD, TURN};
use crate::delivery::attempt::{EndedRequest, attempt};
use crate::delivery::busy::Busy;
use crate::delivery::fetch;
use crate::delivery::recorder::Work;
use crate::delivery::trigger_queue::TriggerQueue;
use crate::model::Timestamp;
use crate::queue::{Batch, CursorMove};

impl Dispatcher {
    pub(super) fn start_attempts(&mut self) {
        let (triggers, mut over_their_share) = (self.triggers.len(), Vec::new());
        while !self.budget.is_full() && self.busy_requests() + TURN <= self.max_busy {
            let Some(id) = self.turns.pop_front() else { break };
            self.in_turns.remove(&id);
            let Some(queue) = self.triggers.get_mut(&id) else { continue };
            if queue.is_batched() {
                if self.start_batches(id) {
                    over_their_share.push(id);
                }
                continue;
            }
            let (mut probe, mut is_allowed) = (None, true);
            for _ in 0..TURN {
                is_allowed = self.budget.allows(queue.limiter.under_way(), triggers);
                let is_probe = queue.is_probing();
                let Some((ready, endpoint)) = is_allowed.then(|| queue.next()).flatten() else { break };
                self.busy.insert(ready.logged.id(), Busy::of(&ready));
                self.budget.taken().add(ready.bytes());
                if is_probe {
                    probe = Some((endpoint.url.clone(), ready.logged.id()));
                }
                let (client, gone, ended) = (Arc::clone(&self.client), queue.pause.gone(), self.ended_sender.clone());
                let lane = ready.logged.event.lane;
                let term = self.lanes.terms().of(lane);
                let permit = self.gate.permit(lane, term);
                // Nobody listens after a stop that ran out of time; then the event is sent again.
                let report = move |request| drop(ended.send(EndedRequest::Single(term, request)));
                tokio::spawn(attempt(client, endpoint, gone, ready, permit, report));
                if is_probe {
                    break;
                }
            }
            self.look_for_parked |= queue.wants_to_park();
            // What there was for a probe may wait behind others.
            self.look_for_reads |= probe.is_none() && queue.is_probing();
            let (has_more, paced_to) = (queue.can_send(), queue.limiter.ready_at());
            if let Some((url, event_id)) = probe {
                self.on_probe(&url, event_id);
            } else if has_more && !is_allowed {
                over_their_share.push(id);
            } else if let (true, Some(at)) = (has_more, paced_to) {
                self.paced.insert((at, id));
            } else if has_more {
                self.give_turn(id);
            }
        }
        over_their_share.into_iter().for_each(|id| self.give_turn(id));
    }

    /// When a clock next lets something start.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let paced = self.paced.first().map(|(at, _)| *at);
        [paced, self.outages.next_probe()].into_iter().flatten().min().filter(|_| self.owner)
    }

    /// Gives turns to those that a clock held back.
    pub(super) fn wake(&mut self) {
        let now = match self.wake_at() {
            Some(at) if at <= Instant::now() => Instant::now(),
            _ => return,
        };
        while let Some((_, id)) = self.paced.first().copied().filter(|(at, _)| *at <= now) {
            self.paced.pop_first();
            self.give_turn(id);
        }
        self.ask_for_probes(now);
    }

    pub(super) fn give_turn(&mut self, id: Uuid) {
        if self.in_turns.insert(id) {
            self.turns.push_back(id);
        }
    }

    /// Whether outcomes are held back only because the last recording was a moment ago.
    pub(super) fn waits_to_record(&self) -> bool {
        let few = self.unrecorded.settled.len() < MUCH_TO_RECORD;
        !self.recording && few && self.has_to_record() && Instant::now() < self.record_at
    }

    fn has_to_record(&self) -> bool {
        self.look_for_parked || !self.unrecorded.is_empty()
    }

    pub(super) fn start_recording(&mut self) {
        if self.recording {
            return;
        }
        // Cursors first: under load there is always something to record.
        if let Some(work) = self.due_cursors().or_else(|| self.due_outcomes()) {
            self.recording = self.work.try_send(work).is_ok();
        }
    }

    fn due_cursors(&mut self) -> Option<Work> {
        let is_due = std::mem::take(&mut self.cursors_due) && self.owner;
        let moves = if is_due { self.cursor_moves() } else { Vec::new() };
        (!moves.is_empty()).then_some(Work::Cursors(moves))
    }

    fn due_outcomes(&mut self) -> Option<Work> {
        if !self.has_to_record() || self.waits_to_record() {
            return None;
        }
        self.record_at = Instant::now() + BETWEEN_RECORDINGS;
        let (batch, later) = (self.take_batch(), Batch::default());
        let (terms, lanes) = (Box::new(*self.lanes.terms()), self.lanes.active());
        (!batch.is_empty()).then_some(Work::Outcomes { terms, lanes, batch, later })
    }

    fn take_batch(&mut self) -> Batch {
        let mut batch = std::mem::take(&mut self.unrecorded);
        if std::mem::take(&mut self.look_for_parked) {
            batch.parked = self.triggers.values_mut().flat_map(TriggerQueue::take_parked).collect();
        }
        batch
    }

    pub(super) fn cursor_moves(&mut self) -> Vec<CursorMove> {
        let mut moves = Vec::new();
        for (trigger_id, queue) in &mut self.triggers {
            let Some(cursors) = queue.take_cursors(self.heads.of(queue.source_id)) else { continue };
            let lanes = (0..).zip(cursors).filter(|(_, seq)| *seq > 0);
            moves.extend(lanes.map(|(lane, seq)| CursorMove { trigger_id: *trigger_id, lane, seq }));
        }
        moves
    }

    pub(super) fn start_load(&mut self) {
        if !self.lanes.are_owned() {
            // A node that only stands by has nothing to load; whoever asked need not wait.
            super::reactions::answer(&mut self.waiters_of_next_load);
        } else if self.loading || self.lanes.are_changing() {
            self.load_again = true;
        } else {
            self.load(self.triggers.keys().copied().collect());
        }
    }

    /// Loads the triggers, and where those go on that are not known.
    pub(super) fn load(&mut self, known: HashSet<Uuid>) {
        self.loading = true;
        self.load_again = false;
        self.loaded_waiters.append(&mut self.waiters_of_next_load);
        self.triggers.values_mut().for_each(|queue| queue.pause.load_starts());
        self.fetches.spawn(fetch::catalogue(self.pool.clone(), known, self.lanes.active()));
    }

    pub(super) fn start_heads(&mut self) {
        if self.owner && !std::mem::replace(&mut self.heads_running, true) {
            self.heads_at = Instant::now() + HEAD_INTERVAL_TOLD;
            self.fetches.spawn(fetch::heads(self.pool.clone()));
        }
    }

    /// Whether the feed tells the end of this source's log, which is captured in this process then.
    pub(super) fn is_told(&self, source_id: i16) -> bool {
        self.feed.as_ref().is_some_and(|feed| feed.tells(source_id))
    }

    /// For sources that the feed tells nothing of, the ends of the log are asked for more often.
    pub(super) fn look_at_heads(&mut self) {
        if Instant::now() >= self.heads_at || self.triggers.values().any(|queue| !self.is_told(queue.source_id)) {
            self.start_heads();
        }
    }

    pub(super) fn start_due(&mut self) {
        if !self.owner || self.due_running {
            return;
        }
        let mut room = Vec::new();
        for (id, queue) in &mut self.triggers {
            if let Some(due) = queue.due_room(*id) {
                // Unless this fetch says so again.
                queue.hand.was_filled(false);
                room.push(due);
            }
        }
        if room.is_empty() {
            self.next_due = None;
            return;
        }
        let in_hand = self.triggers.values().flat_map(|queue| queue.hand.events()).collect();
        self.due_running = true;
        // What is noted from now on, this look may not have seen.
        self.next_due = None;
        let now = self.member.clock.earliest();
        self.fetches.spawn(fetch::due(self.pool.clone(), room, in_hand, self.lanes.active(), now));
    }

    /// A deferred event is due then.
    pub(super) fn look_for_due_at(&mut self, at: Timestamp) {
        self.next_due = Some(self.next_due.map_or(at, |next| next.min(at)));
    }

    /// When deferred events are looked for next.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let at = self.next_due.filter(|_| self.owner && !self.due_running)?;
        let wait = at.0.saturating_sub(self.member.clock.earliest().0);
        Some(Instant::now() + Duration::from_micros(u64::try_from(wait).unwrap_or(0)))
    }
}
