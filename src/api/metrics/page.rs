//! What a scrape shows. Names, helps and labels are a public contract: labels have few values, and none is a secret or
//! of a row.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::capture;
use crate::delivery::{self, DURATIONS_MICROS, OUTCOMES, TriggerFigures};
use crate::model::Timestamp;
use crate::queue::{SlotStatus, Waiting};

/// A source as a scrape finds it.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) is_captured: bool,
    pub(super) figures: capture::Figures,
}

/// Everything that a scrape shows.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) sources: Vec<Source>,
    pub(super) delivery: Option<delivery::Figures>,
    pub(super) is_live: Option<bool>,
    pub(super) waiting: Option<Vec<Waiting>>,
}

impl Watch {
    pub(super) fn encode(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut page = String::new();
        text::encode(&mut page, &registry)?;
        Ok(page)
    }
}

impl Collector for Watch {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        page.build()?;
        if let Some(is_live) = self.is_live {
            let help = "Whether this node's heartbeats are confirmed, so that it may send";
            page.gauge("walhook_node_live", help, [(Vec::new(), number(is_live))])?;
        }
        self.sources(&mut page)?;
        self.slots(&mut page)?;
        if let Some(delivery) = &self.delivery {
            let help = "Lanes that this node delivers, of 16";
            page.gauge("walhook_lanes", help, [(Vec::new(), f64::from(delivery.lanes))])?;
            triggers(&mut page, &delivery.triggers)?;
            attempts(&mut page, &delivery.triggers)?;
        }
        if let Some(waiting) = &self.waiting {
            let help = "How long the oldest event that could be sent by now has waited, on whichever node; 0 for none";
            let rows = waiting.iter().map(|waiting| (labels(&waiting.source, &waiting.trigger), waiting.seconds));
            page.gauge("walhook_oldest_waiting_seconds", help, rows)?;
        }
        Ok(())
    }
}

impl Watch {
    fn sources(&self, page: &mut Page<'_>) -> fmt::Result {
        let all = |value: fn(&Source) -> Option<f64>| {
            self.sources.iter().filter_map(move |source| Some((source.labels(), value(source)?)))
        };
        let counted = |value: fn(&capture::Figures) -> u64| {
            self.sources.iter().map(move |source| (source.labels(), value(&source.figures)))
        };
        let help = "Whether this node captures the source";
        page.gauge("walhook_source_captured", help, all(|source| Some(number(source.is_captured))))?;
        let help = "Events that were captured and are durable in the queue";
        page.counter("walhook_captured_events", help, counted(|figures| figures.events))?;
        let help = "Transactions that had events, captured and durable in the queue";
        page.counter("walhook_captured_transactions", help, counted(|figures| figures.transactions))?;
        let help = "When the transaction committed that was captured last, in seconds since 1970";
        let committed = |source: &Source| Some(seconds(source.figures.last?.committed_at));
        page.gauge("walhook_captured_commit_timestamp_seconds", help, all(committed))?;
        let help = "How long after its commit that transaction's events were durable in the queue";
        let delay = |source: &Source| Some(source.figures.last?.delay_micros as f64 / 1e6);
        page.gauge("walhook_capture_delay_seconds", help, all(delay))
    }

    fn slots(&self, page: &mut Page<'_>) -> fmt::Result {
        let all = |value: fn(&SlotStatus) -> Option<f64>| {
            let of = move |source: &Source| Some((source.labels(), value(source.figures.slot.as_ref()?)?));
            self.sources.iter().filter_map(of)
        };
        let help = "WAL that the server keeps for the slot";
        page.gauge("walhook_slot_retained_bytes", help, all(|slot| slot.retained.map(|bytes| bytes as f64)))?;
        let help = "max_slot_wal_keep_size, beyond which changes are lost; absent where there is no limit";
        page.gauge("walhook_slot_retained_limit_bytes", help, all(|slot| slot.limit.map(|bytes| bytes as f64)))?;
        let help = "Whether the slot is near that limit, as column warning of walhook.source_status says it";
        page.gauge("walhook_slot_at_risk", help, all(|slot| Some(number(slot.warning.is_some()))))?;
        let help = "WAL that was written and is not yet durable in the queue or known to hold no event";
        page.gauge("walhook_slot_lag_bytes", help, all(|slot| slot.lag.map(|bytes| bytes as f64)))
    }
}

impl Source {
    fn labels(&self) -> Labels {
        vec![("source", self.name.clone())]
    }
}

fn triggers(page: &mut Page<'_>, triggers: &[TriggerFigures]) -> fmt::Result {
    let all = |value: fn(&TriggerFigures) -> f64| {
        triggers.iter().map(move |trigger| (labels(&trigger.source, &trigger.trigger), value(trigger)))
    };
    let counted = |value: fn(&TriggerFigures) -> u64| {
        triggers.iter().map(move |trigger| (labels(&trigger.source, &trigger.trigger), value(trigger)))
    };
    let help = "Requests under way";
    page.gauge("walhook_deliveries_in_flight", help, all(|trigger| trigger.in_flight as f64))?;
    let help = "Rows whose events wait for one of their row that failed";
    page.gauge("walhook_held_rows", help, all(|trigger| trigger.held_rows as f64))?;
    let help = "Whether the endpoint is down, so that nothing but probes goes out";
    page.gauge("walhook_endpoint_down", help, all(|trigger| number(trigger.is_down)))?;
    let help = "Whether the trigger is paused";
    page.gauge("walhook_trigger_paused", help, all(|trigger| number(trigger.is_paused)))?;
    let help = "Events that a webhook accepted";
    page.counter("walhook_delivered_events", help, counted(|trigger| trigger.counts.delivered))?;
    let help = "Events whose retries were used up";
    page.counter("walhook_dead_events", help, counted(|trigger| trigger.counts.dead))
}

fn attempts(page: &mut Page<'_>, triggers: &[TriggerFigures]) -> fmt::Result {
    let by_outcome = |trigger: &TriggerFigures| {
        let (labels, attempts) = (labels(&trigger.source, &trigger.trigger), trigger.counts.attempts);
        let with = move |(outcome, count): (&str, u64)| {
            let mut labels = labels.clone();
            labels.push(("outcome", outcome.to_owned()));
            (labels, count)
        };
        OUTCOMES.into_iter().zip(attempts).map(with)
    };
    let help = "Attempts to deliver an event, by the answer's status or why there was none (connect, timeout, broken)";
    page.counter("walhook_delivery_attempts", help, triggers.iter().flat_map(by_outcome))?;
    let help = "How long an attempt took, to the end of the answer";
    page.durations("walhook_delivery_duration_seconds", help, triggers)
}

const VERSION: (&str, &str) = ("version", env!("CARGO_PKG_VERSION"));

type Labels = Vec<(&'static str, String)>;

fn labels(source: &str, trigger: &str) -> Labels {
    vec![("source", source.to_owned()), ("trigger", trigger.to_owned())]
}

fn number(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn seconds(time: Timestamp) -> f64 {
    time.0 as f64 / 1e6
}

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, f64)>) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        rows.into_iter().try_for_each(|(labels, value)| match labels.is_empty() {
            true => family.encode_gauge(&value),
            false => family.encode_family(&labels)?.encode_gauge(&value),
        })
    }

    fn build(&mut self) -> fmt::Result {
        let help = "The version that runs";
        self.0.encode_descriptor("walhook_build", help, None, MetricType::Info)?.encode_info(&[VERSION])
    }

    /// The format adds `_total` to the name.
    fn counter(&mut self, name: &str, help: &str, rows: impl IntoIterator<Item = (Labels, u64)>) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        rows.into_iter().try_for_each(|(labels, value)| {
            family.encode_family(&labels)?.encode_counter::<Labels, u64, f64>(&value, None)
        })
    }

    fn durations(&mut self, name: &str, help: &str, triggers: &[TriggerFigures]) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for trigger in triggers {
            let counts = &trigger.counts;
            let bounds = DURATIONS_MICROS.into_iter().map(|micros| micros as f64 / 1e6).chain([f64::INFINITY]);
            let classes: Vec<(f64, u64)> = bounds.zip(counts.durations).collect();
            let (sum, count) = (counts.duration_micros as f64 / 1e6, counts.durations.iter().sum());
            let labels = labels(&trigger.source, &trigger.trigger);
            family.encode_family(&labels)?.encode_histogram::<Labels>(sum, count, &classes, None)?;
        }
        Ok(())
    }
}
