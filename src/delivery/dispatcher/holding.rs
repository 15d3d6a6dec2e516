//! What the dispatcher makes of endpoints that are down: their triggers send nothing but a probe now and then.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};
use uuid::Uuid;

use super::{AT_ONCE, Dispatcher};
use crate::delivery::attempt::Request;
use crate::delivery::breaker::{self, Sign};
use crate::delivery::failures::reason;
use crate::delivery::fetch;
use crate::delivery::outages::{Flow, News};
use crate::model::{EventId, Outcome, Timestamp};
use crate::queue::EndpointDown;

/// How often the database is told again of what is down, so that what a node left behind when it ended shows its age.
const TOLD_EVERY: Duration = Duration::from_secs(20);
/// Names in a line of the log.
const NAMES: usize = 5;

impl Dispatcher {
    /// Tells the endpoint's breaker of a request, which is one event to it, however many were in it. Gives whether a
    /// failure is one of the events' own: one that is part of an outage costs them none of their retries.
    pub(super) fn judge(&mut self, event_id: EventId, request: &Request, outcome: &Outcome) -> bool {
        let (endpoint, now) = (&request.endpoint, Instant::now());
        if request.withdrawn {
            self.outages.withdrawn(&endpoint.url, event_id, now);
            return false;
        }
        let sign = Sign::of(outcome, &endpoint.retry_conf, self.longest_retry_after);
        let ended = breaker::Ended { event_id, sign, started_at: request.started, now };
        let reached = breaker::was_reached(outcome);
        let counts = self.outages.ended(&endpoint.url, &ended, reached, || reason(outcome));
        for news in self.outages.take_news() {
            self.on_news(news);
        }
        counts
    }

    pub(super) fn on_news(&mut self, news: News) {
        match news {
            News::Down { triggers, reason, next_probe, quiet } => {
                self.set_flow(&triggers, Flow::Held);
                if !quiet {
                    let (triggers, pause) = (self.names(&triggers), next_probe.as_secs_f64());
                    warn!(
                        triggers,
                        "the endpoint is down: {reason}; events wait in the log and keep their retries, one request \
                         at a time tries it, the next in {pause:.0} s; other endpoints go on"
                    );
                }
            }
            News::Up { triggers, after, quiet } => {
                self.set_flow(&triggers, Flow::Free);
                self.look_for_reads = true;
                self.next_due = Some(AT_ONCE);
                if !quiet {
                    let (triggers, seconds) = (self.names(&triggers), after.as_secs_f64());
                    info!(triggers, "the endpoint answers again after {seconds:.0} s; sending begins slowly");
                }
            }
            News::NetworkDown { hosts, reason } => warn!(
                "{hosts} hosts cannot be reached, most of those that were tried: {reason}; this looks like walhook's \
                 own network. Events wait in the log and keep their retries, each endpoint is tried again and again"
            ),
            News::NetworkUp { after } => {
                info!("hosts can be reached again after {:.0} s", after.as_secs_f64());
            }
        }
        self.down_changed = true;
    }

    /// Lets the triggers of an endpoint that is due for a probe send one.
    pub(super) fn ask_for_probes(&mut self, now: Instant) {
        let asked = self.outages.ask_for_probes(now);
        self.set_flow(&asked, Flow::Probe);
    }

    /// A trigger sent its probe: the others behind its endpoint send none.
    pub(super) fn on_probe(&mut self, url: &hyper::Uri, event_id: EventId) {
        let triggers = self.outages.probing(url, event_id).to_vec();
        self.set_flow(&triggers, Flow::Held);
        // For the next probe, where there was just this event.
        self.look_for_reads = true;
        self.next_due = Some(AT_ONCE);
    }

    /// Which triggers send where may have changed, and with it who is held.
    pub(super) fn assign_endpoints(&mut self) {
        let urls = |(id, queue): (&Uuid, &crate::delivery::trigger_queue::TriggerQueue)| {
            queue.endpoint.as_ref().ok().map(|endpoint| (*id, endpoint.url.clone()))
        };
        let urls: Vec<_> = self.triggers.iter().filter_map(urls).collect();
        self.outages.assign(urls.iter().map(|(id, url)| (*id, url)));
        for (id, url) in &urls {
            self.set_flow(&[*id], self.outages.flow(url));
        }
    }

    fn set_flow(&mut self, triggers: &[Uuid], flow: Flow) {
        for id in triggers {
            let Some(queue) = self.triggers.get_mut(id) else { continue };
            queue.set_flow(flow);
            if queue.can_send() {
                self.give_turn(*id);
            }
        }
    }

    /// Writes down which endpoints are down, where that changed, for `walhook.endpoints`.
    pub(super) fn tell_down(&mut self) {
        let has_down = self.outages.down().next().is_some();
        let is_old = self.down_told_at.is_none_or(|at| at.elapsed() >= TOLD_EVERY);
        let is_due = self.down_changed && (has_down || self.was_down) || has_down && is_old;
        if !self.owner || self.telling_down || !is_due {
            return;
        }
        let (now, time) = (Instant::now(), self.member.clock.earliest());
        let mut down = Vec::new();
        for (triggers, reason, since) in self.outages.down() {
            let ago = i64::try_from(now.saturating_duration_since(since).as_micros()).unwrap_or(i64::MAX);
            let since = Timestamp(time.0.saturating_sub(ago));
            let row = |id: &Uuid| EndpointDown { trigger_id: *id, reason: reason.to_owned(), since };
            down.extend(triggers.iter().map(row));
        }
        (self.down_changed, self.was_down, self.telling_down, self.down_told_at) = (false, has_down, true, Some(now));
        self.fetches.spawn(fetch::tell_down(self.pool.clone(), self.member.id, down));
    }

    fn names(&self, triggers: &[Uuid]) -> String {
        let queues = triggers.iter().filter_map(|id| self.triggers.get(id)?.endpoint.as_ref().ok());
        let mut names: Vec<&str> = queues.map(|endpoint| endpoint.name.as_str()).collect();
        names.sort_unstable();
        match names.len().checked_sub(NAMES) {
            Some(more @ 1..) => format!("{} and {more} more", names[..NAMES].join(", ")),
            _ => names.join(", "),
        }
    }
}
