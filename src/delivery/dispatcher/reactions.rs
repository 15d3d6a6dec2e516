//! What the dispatcher does with what it is told.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{info, warn};
use uuid::Uuid;

use super::{AT_ONCE, Dispatcher};
use crate::delivery::attempt::{Ended, EndedRequest, settle};
use crate::delivery::fetch::{Fetched, Loaded};
use crate::delivery::limiter::Load;
use crate::delivery::recorder::Report;
use crate::delivery::trigger_queue::TriggerQueue;
use crate::delivery::{Command, Endpoint};
use crate::model::{LANES, Ordering, RowHash, Timestamp, Verdict};
use crate::queue::{Batch, Deferred, LiveTrigger, Settled, Skipped};

impl Dispatcher {
    pub(super) fn on_report(&mut self, report: Report) {
        match report {
            Report::Got { session, owned, terms } => self.on_got(session, owned, terms),
            Report::Lost => self.on_lost(),
            Report::GivenBack(lanes) => {
                self.recording = false;
                self.on_given_back(lanes);
            }
            Report::Recorded { batch, still_held, later } => {
                self.recording = false;
                self.unrecorded.append(later);
                self.on_recorded(&batch, &still_held.into_iter().collect());
            }
            Report::CursorsWritten => self.recording = false,
        }
    }

    fn on_recorded(&mut self, batch: &Batch, still_held: &HashSet<(Uuid, RowHash)>) {
        if !still_held.is_empty() || !batch.skipped.is_empty() {
            // The next events were released, or had no room beside those that were skipped.
            self.next_due = Some(AT_ONCE);
        }
        let is_held = |trigger_id, row: Option<RowHash>| row.is_some_and(|row| still_held.contains(&(trigger_id, row)));
        for settled in &batch.settled {
            self.on_settled(settled, is_held(settled.trigger_id, settled.holds));
        }
        for parked in &batch.parked {
            let Some(queue) = self.triggers.get_mut(&parked.trigger_id) else { continue };
            queue.parked(parked);
            self.look_for_reads |= !queue.is_live();
        }
        for skipped in &batch.skipped {
            let Some(queue) = self.triggers.get_mut(&skipped.trigger_id) else { continue };
            queue.skipped(skipped, is_held(skipped.trigger_id, skipped.holds));
            self.look_for_reads |= !queue.is_live();
            if queue.can_send() {
                self.give_turn(skipped.trigger_id);
            }
        }
    }

    fn on_settled(&mut self, settled: &Settled, still_held: bool) {
        self.busy.remove(&settled.event_id);
        match settled.attempt.verdict {
            Verdict::RetryAt(due) => self.look_for_due_at(due),
            _ if settled.asked_again => self.next_due = Some(AT_ONCE),
            _ => {}
        }
        let Some(queue) = self.triggers.get_mut(&settled.trigger_id) else { return };
        queue.recorded(settled, still_held);
        let paused = settled.attempt.verdict == Verdict::Paused;
        self.look_for_reads |= !queue.is_live();
        self.look_for_parked |= queue.wants_to_park();
        let can_send = queue.can_send();
        if queue.wants_due() {
            self.next_due = Some(AT_ONCE);
        }
        if paused {
            queue.pause.is_recorded();
            self.start_load();
        } else if can_send {
            self.give_turn(settled.trigger_id);
        }
    }

    pub(super) fn on_ended(&mut self, ended: EndedRequest) {
        let (term, ended) = match ended {
            EndedRequest::Single(term, ended) => (term, ended),
            EndedRequest::Batch(terms, ended) => return self.on_batch_ended(&terms, ended),
        };
        let Ended { ready, request, outcome, size } = ended;
        let (event_id, trigger_id, lane) = (ready.logged.id(), ready.logged.event.trigger_id, ready.logged.event.lane);
        let counts = self.judge(event_id, &request, &outcome);
        self.budget.taken().remove(size);
        if request.withdrawn || term != self.lanes.terms().of(lane) {
            if let Some(queue) = self.triggers.get_mut(&trigger_id) {
                queue.limiter.ended(Load::of(&outcome), size, request.started, Instant::now());
            }
            return;
        }
        let settled = settle(ready, &request, outcome, counts, self.longest_retry_after.as_secs());
        if let Some(queue) = self.triggers.get_mut(&trigger_id) {
            queue.meter.counts.note(&settled.attempt);
            queue.request_ended(&settled, size, request.started);
            self.look_for_reads |= !queue.is_live();
            if queue.can_send() {
                self.give_turn(trigger_id);
            }
        }
        self.unrecorded.settled.push(settled);
    }

    pub(super) fn on_command(&mut self, command: Command) {
        match command {
            Command::CatalogueChanged(answer) => {
                // A load that runs already may have read the catalogue before the change.
                self.waiters_of_next_load.push(answer);
                self.start_load();
            }
            Command::TriggersChanged => self.start_load(),
            Command::IsInFlight(event, answer) => {
                // One that was fetched because it is due is as good as sent.
                let fetched = || self.triggers.values().any(|queue| queue.hand.has(event));
                let _ = answer.send(self.busy.contains_key(&event) || fetched());
            }
            Command::DeferredAdded => self.next_due = Some(AT_ONCE),
            Command::Figures(answer) => drop(answer.send(self.figures())),
            // The feed tells of its own sources, and brings the events.
            Command::LogGrew(source_id, head) if !self.is_told(source_id) => self.on_head(source_id, head),
            Command::LogGrew(..) => {}
        }
    }

    pub(super) fn on_fetched(&mut self, fetched: Result<Fetched, tokio::task::JoinError>) {
        match fetched.expect("a fetch neither panics nor is aborted while the dispatcher runs") {
            Fetched::Backlog { trigger_id, backlog } => self.on_backlog(trigger_id, Some(backlog)),
            Fetched::BacklogFailed { trigger_id } => self.on_backlog(trigger_id, None),
            Fetched::News { asked, found } => self.on_log_news(&asked, found.as_ref()),
            Fetched::Due { events, next, filled } => self.on_due(events, next, &filled),
            Fetched::DueFailed => {
                self.due_running = false;
                self.next_due = Some(AT_ONCE);
            }
            Fetched::Catalogue(loaded) => self.on_loaded(loaded),
            Fetched::CatalogueFailed => {
                self.loading = false;
                self.waiters_of_next_load.append(&mut self.loaded_waiters);
                self.lanes.load_again();
                self.start_load();
            }
            Fetched::Heads(heads) => {
                self.heads_running = false;
                heads.into_iter().for_each(|(source_id, head)| self.on_head(source_id, head));
            }
            Fetched::ToldDown { done } => {
                self.telling_down = false;
                self.down_changed |= !done;
            }
        }
    }

    pub(super) fn on_due(&mut self, events: Vec<Deferred>, next: Option<Timestamp>, filled: &[Uuid]) {
        self.due_running = false;
        // What was recorded while the query ran may be due earlier than it knew.
        self.next_due = [self.next_due, next].into_iter().flatten().min();
        for id in filled {
            if let Some(queue) = self.triggers.get_mut(id) {
                queue.hand.was_filled(true);
            }
        }
        for deferred in events {
            let id = deferred.logged.event.trigger_id;
            let Some(queue) = self.triggers.get_mut(&id) else { continue };
            if deferred.skipped {
                let (event_id, lane, holds) = (deferred.logged.id(), deferred.logged.event.lane, deferred.holds);
                // Not to be sent; perhaps it is known already.
                if queue.hand.take(event_id, false) {
                    self.unrecorded.skipped.push(Skipped { event_id, trigger_id: id, lane, holds });
                }
                continue;
            }
            queue.take_deferred(deferred);
            // By their bytes; by their number the fetch told.
            if queue.due_room(id).is_none() {
                queue.hand.was_filled(true);
            }
            if queue.can_send() {
                self.give_turn(id);
            }
        }
    }

    pub(super) fn on_loaded(&mut self, loaded: Vec<Loaded>) {
        self.loading = false;
        self.starts_until = None;
        answer(&mut self.loaded_waiters);
        let (moves, lanes) = (self.lanes.are_loading(), self.lanes.active().len());
        let under_way = if moves { self.under_way() } else { HashMap::new() };
        let live: HashSet<Uuid> = loaded.iter().map(|loaded| loaded.trigger.trigger.id).collect();
        self.triggers.retain(|id, _| live.contains(id));
        for Loaded { trigger: LiveTrigger { source_id, trigger, paused }, place } in loaded {
            let endpoint = Endpoint::resolve(&trigger, &self.environment).map(Arc::new);
            let carried = under_way.get(&trigger.id).map_or(&[][..], Vec::as_slice);
            match (self.triggers.get_mut(&trigger.id), place) {
                (Some(queue), place) => {
                    queue.set_endpoint(endpoint);
                    if let Some(place) = place.filter(|_| moves) {
                        queue.restart(place, carried);
                    }
                }
                (None, Some(place)) => {
                    if let Err(reason) = &endpoint {
                        let name = &trigger.definition.name;
                        warn!(trigger = name, "its events wait: {reason}; set it and start walhook again");
                    }
                    let mut queue = TriggerQueue::new(source_id, endpoint);
                    queue.restart(place, carried);
                    self.triggers.insert(trigger.id, queue);
                }
                // Dropped between the question and the answer: the next load asks for its place.
                (None, None) => self.load_again = true,
            }
            let Some(queue) = self.triggers.get_mut(&trigger.id) else { continue };
            // All of its events are in one lane where it keeps the order of all of them.
            let lanes = if trigger.definition.ordering == Ordering::Trigger { LANES.into() } else { lanes };
            queue.limiter.apply(trigger.definition.limits, lanes);
            queue.meter.is_of(&trigger.definition);
            if queue.pause.is_told(paused) {
                let (name, what) =
                    (&trigger.definition.name, if paused { "paused: its events are held" } else { "resumed" });
                info!(trigger = name, "{what}");
            }
            if queue.can_send() {
                self.give_turn(trigger.id);
            }
        }
        self.assign_endpoints();
        let triggers = self.triggers.len();
        self.triggers.values_mut().for_each(|queue| queue.share_memory(triggers));
        self.look_for_reads = true;
        self.next_due = Some(AT_ONCE);
        if moves {
            self.changed_lanes();
        }
        if self.load_again || !self.waiters_of_next_load.is_empty() {
            self.start_load();
        }
    }
}

/// Whoever asked may have given up meanwhile.
pub(super) fn answer(waiters: &mut Vec<oneshot::Sender<()>>) {
    for waiter in waiters.drain(..) {
        let _ = waiter.send(());
    }
}
