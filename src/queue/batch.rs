//! What is recorded together: attempts that ended, events that are parked, and those that were given up.

use uuid::Uuid;

use super::RowVersion;
use crate::model::{Attempt, EventId, Lane, LaneSet, OnDead, RowHash, Timestamp, Verdict};

/// An event with an attempt that ended.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The event.
    pub event_id: EventId,
    /// Its trigger.
    pub trigger_id: Uuid,
    /// Its source.
    pub source_id: i16,
    /// Its place in the log.
    pub seq: i64,
    /// Its lane.
    pub lane: Lane,
    /// When the change committed: the partition the event is in.
    pub committed_at: Timestamp,
    /// For an event that came from `deferred`, where it must go when it is done.
    pub version: Option<RowVersion>,
    /// What no other request could be under way for meanwhile.
    pub lock: Option<RowHash>,
    /// Whose later events wait for this one, see [`Deferred::holds`](super::Deferred).
    pub holds: Option<RowHash>,
    /// What becomes of those if it is dead.
    pub on_dead: OnDead,
    /// What happened.
    pub attempt: Attempt,
    /// Whether a failure is one of the trigger's `num_retries`. One that is part of its endpoint's outage is not.
    pub counts: bool,
    /// Somebody had it redelivered after it was fetched for this attempt: after a failure it begins anew. Found out
    /// when it is recorded, by the version.
    pub asked_again: bool,
}

impl Settled {
    /// Whether the event came from `deferred`.
    pub fn was_deferred(&self) -> bool {
        self.version.is_some()
    }

    /// Whether the event stays in `deferred` or comes there, and why.
    fn waits(&self) -> Option<(Option<Timestamp>, &'static str)> {
        match self.attempt.verdict {
            Verdict::RetryAt(due) if self.asked_again => Some((Some(due), REDELIVERY)),
            Verdict::Dead | Verdict::Paused if self.asked_again => Some((Some(self.attempt.started_at), REDELIVERY)),
            Verdict::RetryAt(due) => Some((Some(due), "retry")),
            Verdict::Paused => Some((Some(self.attempt.started_at), "retry")),
            Verdict::Dead if self.on_dead == OnDead::Hold && self.holds.is_some() => Some((None, "held")),
            Verdict::Delivered | Verdict::Dead => None,
        }
    }

    /// Whether later events go on waiting for it.
    pub fn is_waiting(&self) -> bool {
        self.waits().is_some()
    }

    /// The row that others may wait in, and that is free of this event now.
    fn freed(&self) -> Option<(Uuid, RowHash, Lane)> {
        self.holds.filter(|_| self.was_deferred() && !self.is_waiting()).map(|row| (self.trigger_id, row, self.lane))
    }
}

/// An event that waits behind an earlier one of its row, out of the log's way.
#[derive(Clone, Debug)]
pub struct Parked {
    /// The event.
    pub event_id: EventId,
    /// Its trigger.
    pub trigger_id: Uuid,
    /// Its source.
    pub source_id: i16,
    /// Its place in the log.
    pub seq: i64,
    /// Its lane.
    pub lane: Lane,
    /// The partition the event is in.
    pub committed_at: Timestamp,
    /// Its row.
    pub row: RowHash,
}

/// A deferred event that somebody gave up.
#[derive(Clone, Debug)]
pub struct Skipped {
    /// The event.
    pub event_id: EventId,
    /// Its trigger.
    pub trigger_id: Uuid,
    /// Its lane.
    pub lane: Lane,
    /// Whose later events wait for it.
    pub holds: Option<RowHash>,
}

/// What is recorded together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Attempts that ended.
    pub settled: Vec<Settled>,
    /// Events to be parked.
    pub parked: Vec<Parked>,
    /// Events that wait no more.
    pub skipped: Vec<Skipped>,
}

impl Batch {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.settled.is_empty() && self.parked.is_empty() && self.skipped.is_empty()
    }

    /// Adds another one.
    pub fn append(&mut self, other: Batch) {
        self.settled.extend(other.settled);
        self.parked.extend(other.parked);
        self.skipped.extend(other.skipped);
    }

    /// Drops what is not of these lanes.
    pub fn retain(&mut self, lanes: LaneSet) {
        self.settled.retain(|settled| lanes.contains(settled.lane));
        self.parked.retain(|parked| lanes.contains(parked.lane));
        self.skipped.retain(|skipped| lanes.contains(skipped.lane));
    }

    pub(super) fn freed(&self) -> Vec<(Uuid, RowHash, Lane)> {
        let freed = |skipped: &Skipped| skipped.holds.map(|row| (skipped.trigger_id, row, skipped.lane));
        let skipped = self.skipped.iter().filter_map(freed);
        self.settled.iter().filter_map(Settled::freed).chain(skipped).collect()
    }
}

/// Why an event waits that somebody had redelivered.
const REDELIVERY: &str = "redelivery";

/// A row of a deferred event, as it is written.
pub(super) struct Waiting {
    pub(super) event_id: EventId,
    pub(super) trigger_id: Uuid,
    pub(super) source_id: i16,
    pub(super) seq: i64,
    pub(super) committed_at: Timestamp,
    pub(super) lane: Lane,
    pub(super) number: i32,
    pub(super) due: Option<Timestamp>,
    pub(super) reason: &'static str,
    pub(super) row: Option<RowHash>,
}

impl Waiting {
    pub(super) fn settled(settled: &Settled) -> Option<Waiting> {
        let Settled { event_id, trigger_id, source_id, seq, committed_at, lane, holds: row, .. } = *settled;
        let (due, reason) = settled.waits()?;
        let spends_a_retry = settled.counts && settled.attempt.verdict != Verdict::Paused;
        let next = number(settled.attempt.number).saturating_add(i32::from(spends_a_retry));
        let number = if settled.asked_again { 0 } else { next };
        Some(Waiting { event_id, trigger_id, source_id, seq, committed_at, lane, number, due, reason, row })
    }

    pub(super) fn parked(parked: &Parked) -> Waiting {
        let Parked { event_id, trigger_id, source_id, seq, lane, committed_at, row } = *parked;
        let (number, due, reason, row) = (0, None, "parked", Some(row));
        Waiting { event_id, trigger_id, source_id, seq, committed_at, lane, number, due, reason, row }
    }
}

/// A count of attempts, as Postgres stores it.
pub(super) fn number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX - 1)
}
