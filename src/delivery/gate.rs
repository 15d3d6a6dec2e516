//! Whether a request may be sent: its events' lanes are still ours, and the lease is valid. Between the start of an
//! attempt and its request the process may have slept or waited for a connection, and others may have taken over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::tenure::Terms;
use crate::model::{LANES, Lane, LaneSet};
use crate::node::{Lease, Member, Standing};

/// Shared by the recorder, which owns the lanes, and the attempts.
#[derive(Clone, Debug)]
pub(super) struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Each lane's term, twice, and one more while it is owned.
    lanes: [AtomicU64; LANES as usize],
    lease: Lease,
    standing: watch::Receiver<Standing>,
}

impl Gate {
    /// One that lets nothing through yet.
    pub(super) fn new(member: &Member) -> Gate {
        let (lease, standing) = (member.lease.clone(), member.standing.clone());
        Gate(Arc::new(Inner { lanes: Default::default(), lease, standing }))
    }

    /// These lanes are ours, and no others.
    pub(super) fn set(&self, owned: LaneSet, terms: &Terms) {
        for lane in LaneSet::ALL.iter() {
            let state = terms.of(lane) << 1 | u64::from(owned.contains(lane));
            self.0.lanes[usize::from(lane)].store(state, Ordering::Release);
        }
    }

    /// The right to send an event of this lane, which was begun in this term.
    pub(super) fn permit(&self, lane: Lane, term: u64) -> Permit {
        Permit { gate: self.clone(), of: Lanes::One((lane, term)) }
    }

    /// The same for a request of several lanes.
    pub(super) fn permit_all(&self, lanes: LaneSet, terms: &Terms) -> Permit {
        Permit { gate: self.clone(), of: Lanes::Several(lanes.iter().map(|lane| (lane, terms.of(lane))).collect()) }
    }

    /// `None` where it may open yet.
    fn is_open(&self, lane: Lane, term: u64) -> Option<bool> {
        let state = self.0.lanes[usize::from(lane % LANES)].load(Ordering::Acquire);
        if state >> 1 != term {
            return Some(false);
        }
        (state & 1 == 1 && self.0.lease.is_valid()).then_some(true)
    }
}

/// A request's right to be sent, as long as its lanes are ours.
#[derive(Clone, Debug)]
pub(super) struct Permit {
    gate: Gate,
    of: Lanes,
}

/// Each with the term in which the request was begun.
#[derive(Clone, Debug)]
enum Lanes {
    One((Lane, u64)),
    Several(Arc<[(Lane, u64)]>),
}

impl Permit {
    /// Waits until the request may be sent. False when others may have a lane of it, or had it since.
    pub(super) async fn pass(&self) -> bool {
        let mut standing = self.gate.0.standing.clone();
        loop {
            // Told with each heartbeat.
            standing.mark_unchanged();
            if let Some(passes) = self.is_open() {
                return passes;
            }
            if standing.changed().await.is_err() {
                return false;
            }
        }
    }

    /// Whether the request may be sent at this moment.
    pub(super) fn is_valid(&self) -> bool {
        self.is_open() == Some(true)
    }

    /// `None` where it may open yet.
    fn is_open(&self) -> Option<bool> {
        let lanes = match &self.of {
            Lanes::One(lane) => std::slice::from_ref(lane),
            Lanes::Several(lanes) => lanes,
        };
        let mut all = Some(true);
        for (lane, term) in lanes {
            match self.gate.is_open(*lane, *term) {
                Some(true) => {}
                // This decides it, whatever becomes of the others.
                Some(false) => return Some(false),
                None => all = None,
            }
        }
        all
    }
}

#[cfg(test)]
impl Gate {
    /// One with all lanes, and who tells it of heartbeats.
    pub(super) fn example() -> (Gate, watch::Sender<Standing>) {
        let (sender, standing) = watch::channel(Standing::default());
        let lease = Lease::new(std::time::Duration::from_secs(3600));
        lease.renew(crate::node::Moment::now());
        let gate = Gate(Arc::new(Inner { lanes: Default::default(), lease, standing }));
        gate.set(LaneSet::ALL, &Terms::default());
        (gate, sender)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::delivery::tenure::Tenure;
    use crate::model::Timestamp;
    use crate::node::Moment;
    use crate::queue::Taken;

    #[tokio::test]
    async fn a_request_waits_for_the_lease_and_is_not_sent_once_its_lane_was_anothers() {
        let (sender, standing) = watch::channel(Standing::default());
        let lease = Lease::new(Duration::from_secs(3600));
        let gate = Gate(Arc::new(Inner { lanes: Default::default(), lease: lease.clone(), standing }));
        let mut tenure = Tenure::default();
        let lanes: LaneSet = [3, 4].into_iter().collect();
        let taken = |since: [i64; 2]| {
            let mut taken = Taken { lanes, ..Taken::default() };
            taken.since[3..5].copy_from_slice(&since.map(|time| Some(Timestamp::from_postgres_micros(time))));
            taken
        };
        tenure.took(taken([10, 10]));
        let terms = tenure.terms();
        gate.set(tenure.owned(), &terms);
        let waiting = tokio::spawn({
            let permit = gate.permit_all(lanes, &terms);
            async move { permit.pass().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "there is no lease yet");
        lease.renew(Moment::now());
        sender.send_modify(|_| ());
        assert!(waiting.await.expect("an answer"));
        let permits = [3, 4].map(|lane| gate.permit(lane, terms.of(lane)));
        assert!(permits.iter().all(Permit::is_valid));
        // Lost with the session, and 4 was another node's before it came back.
        tenure.session_ended();
        gate.set(tenure.owned(), &tenure.terms());
        assert!(!permits.iter().any(Permit::is_valid));
        tenure.took(taken([10, 20]));
        gate.set(tenure.owned(), &tenure.terms());
        assert_eq!(permits.each_ref().map(Permit::is_valid), [true, false]);
        assert!(permits[0].pass().await);
        assert!(!permits[1].pass().await);
        assert!(!gate.permit_all(lanes, &terms).pass().await, "one of its lanes was another's");
    }
}
