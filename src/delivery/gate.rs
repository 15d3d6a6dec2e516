//! The last look before a request is sent: whether the event's lane is still ours, and the lease valid. Between the
//! start of an attempt and its request the process may have slept, and others may have taken over.

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

    /// Waits until a request of this lane may be sent that was begun in this term; that is at once but for
    /// interruptions. False when others may have the lane, or had it since.
    pub(super) async fn pass(&self, lane: Lane, term: u64) -> bool {
        if self.is_open(lane, term) == Some(true) {
            return true;
        }
        let mut standing = self.0.standing.clone();
        loop {
            // Told with each heartbeat.
            standing.mark_unchanged();
            if let Some(passes) = self.is_open(lane, term) {
                return passes;
            }
            if standing.changed().await.is_err() {
                return false;
            }
        }
    }

    /// The same for a request of several lanes.
    pub(super) async fn pass_all(&self, lanes: LaneSet, terms: &Terms) -> bool {
        for lane in lanes.iter() {
            if !self.pass(lane, terms.of(lane)).await {
                return false;
            }
        }
        true
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::delivery::tenure::Tenure;
    use crate::node::Moment;
    use crate::queue::Taken;

    #[tokio::test]
    async fn a_request_waits_for_the_lease_and_is_not_sent_once_its_lane_was_anothers() {
        let (sender, standing) = watch::channel(Standing::default());
        let lease = Lease::new(Duration::from_secs(3600));
        let gate = Gate(Arc::new(Inner { lanes: Default::default(), lease: lease.clone(), standing }));
        let mut tenure = Tenure::default();
        let lanes: LaneSet = [3, 4].into_iter().collect();
        tenure.took(Taken { lanes, untouched: LaneSet::NONE });
        let terms = tenure.terms();
        gate.set(tenure.owned(), &terms);
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.pass(3, terms.of(3)).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "there is no lease yet");
        lease.renew(Moment::now());
        sender.send_modify(|_| ());
        assert!(waiting.await.expect("an answer"));
        assert!(gate.pass(4, terms.of(4)).await);
        // Lost with the session, and 4 was another node's before it came back.
        tenure.session_ended();
        gate.set(tenure.owned(), &tenure.terms());
        tenure.took(Taken { lanes, untouched: [3].into_iter().collect() });
        gate.set(tenure.owned(), &tenure.terms());
        assert!(gate.pass(3, terms.of(3)).await);
        assert!(!gate.pass(4, terms.of(4)).await);
    }
}
