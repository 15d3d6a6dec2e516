//! What the dispatcher remembers of an event from the start of its request until its outcome is durable.

use uuid::Uuid;

use super::rows::Ready;
use crate::model::{Lane, RowHash};

/// See the module's description.
#[derive(Clone, Copy, Debug)]
pub(super) struct Busy {
    pub(super) trigger_id: Uuid,
    pub(super) lane: Lane,
    pub(super) seq: i64,
    /// Whether it came from `deferred`.
    pub(super) deferred: bool,
    /// The row that is busy with it, as long as it was not accepted.
    pub(super) lock: Option<RowHash>,
}

impl Busy {
    pub(super) fn of(ready: &Ready) -> Busy {
        let event = &ready.logged.event;
        let (trigger_id, lane) = (event.trigger_id, event.lane);
        Busy { trigger_id, lane, seq: ready.logged.seq, deferred: ready.is_deferred(), lock: ready.lock }
    }
}
