//! Reading the log on. What another node appended, and what the feed had no room for, is told by the log's end alone,
//! and may be of any trigger: where that concerns more than a few, it is asked for all of them at once who has anything
//! to be read. Whoever has not is moved on to the end that was asked about, which was told before the question and so
//! is in what the answer saw.

use std::collections::HashSet;

use tracing::debug;
use uuid::Uuid;

use super::Dispatcher;
use crate::delivery::fetch;
use crate::queue::{Backlog, Bounds, Stretch};

const READS: usize = 3;

/// What is being read.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// How many triggers' logs.
    running: usize,
    /// Whether it is being asked who has something to be read.
    asking: bool,
}

impl Dispatcher {
    pub(super) fn start_reads(&mut self) {
        if !std::mem::take(&mut self.look_for_reads) {
            return;
        }
        let mut unknown = Vec::new();
        for (id, queue) in &mut self.triggers {
            // The end of a read, and the answer, look again.
            let waits = if queue.has_backlog() { self.reads.running >= READS } else { self.reads.asking };
            if waits {
                continue;
            }
            let source_id = queue.source_id;
            let Some(bounds) = queue.wants_read(self.heads.of(source_id)) else { continue };
            if queue.has_backlog() {
                self.reads.running += 1;
                self.fetches.spawn(fetch::backlog(self.pool.clone(), *id, source_id, bounds));
            } else {
                unknown.push((*id, source_id, bounds));
            }
        }
        if unknown.len() <= READS.saturating_sub(self.reads.running) {
            self.reads.running += unknown.len();
            for (id, source_id, bounds) in unknown {
                self.fetches.spawn(fetch::backlog(self.pool.clone(), id, source_id, bounds));
            }
            return;
        }
        let stretch = |(trigger_id, source_id, bounds): (Uuid, i16, Bounds)| Stretch {
            trigger_id,
            source_id,
            after: bounds.after,
            up_to: bounds.up_to,
        };
        self.reads.asking = true;
        let stretches = unknown.into_iter().map(stretch).collect();
        self.fetches.spawn(fetch::news(self.pool.clone(), stretches));
    }

    /// What was being read is void.
    pub(super) fn forget_reads(&mut self) {
        self.reads = Reads::default();
    }

    /// A trigger's log was read, or could not be.
    pub(super) fn on_backlog(&mut self, trigger_id: Uuid, backlog: Option<Backlog>) {
        self.reads.running -= 1;
        self.look_for_reads = true;
        let Some(queue) = self.triggers.get_mut(&trigger_id) else { return };
        let Some(backlog) = backlog else { return queue.read_failed() };
        let (trigger, events) = (queue.endpoint.as_ref().map_or("", |endpoint| &endpoint.name), backlog.events.len());
        debug!(trigger, events, "its log was read");
        queue.read(backlog);
        if queue.can_send() {
            self.give_turn(trigger_id);
        }
    }

    /// It was asked who has something to be read.
    pub(super) fn on_log_news(&mut self, asked: &[Stretch], found: Option<&HashSet<Uuid>>) {
        self.reads.asking = false;
        self.look_for_reads = true;
        debug!(asked = asked.len(), found = found.map(HashSet::len), "it was asked who has something to be read");
        for Stretch { trigger_id, .. } in asked {
            let Some(queue) = self.triggers.get_mut(trigger_id) else { continue };
            match found.map(|found| found.contains(trigger_id)) {
                Some(true) => queue.has_news(),
                Some(false) => queue.read(Backlog { complete: true, ..Backlog::default() }),
                None => queue.read_failed(),
            }
            if queue.can_send() {
                self.give_turn(*trigger_id);
            }
        }
    }
}
