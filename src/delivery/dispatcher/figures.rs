//! What the dispatcher tells whoever watches.

use super::Dispatcher;
use crate::delivery::figures::{Figures, Meter, TriggerFigures};
use crate::delivery::outages::Flow;
use crate::delivery::trigger_queue::TriggerQueue;

impl Dispatcher {
    pub(super) fn figures(&self) -> Figures {
        let lanes = self.lanes.count();
        let of_trigger = |queue: &TriggerQueue| {
            let Meter { source, trigger, counts } = queue.meter.clone();
            let url = queue.endpoint.as_ref().ok().map(|endpoint| &endpoint.url);
            TriggerFigures {
                source,
                trigger,
                counts,
                in_flight: queue.limiter.under_way().requests,
                held_rows: queue.rows.held(),
                is_down: url.is_some_and(|url| self.outages.flow(url) != Flow::Free),
                is_paused: queue.pause.is_on(),
            }
        };
        Figures { lanes, triggers: self.triggers.values().map(of_trigger).collect() }
    }
}
