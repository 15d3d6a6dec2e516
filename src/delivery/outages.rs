//! Which endpoints are down: a breaker for each URL, shared by the triggers that send to it; and whether what fails is
//! our own network. No I/O.
//!
//! A breaker belongs to a whole URL and not to an origin, because behind one origin there are often many services: a
//! gateway answers 503 for the one that is down, and the others must go on.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use hyper::Uri;
use tokio::time::Instant;
use uuid::Uuid;

use super::breaker::{Breaker, Change, Ended};
use crate::model::EventId;

/// Hosts that were tried this lately tell how our network is. Longer than the longest pause between two probes.
const LATELY: Duration = Duration::from_secs(60);
/// From so many hosts on, if they are two of three of those that were tried, it is not the hosts.
const HOSTS_OF_A_NETWORK: usize = 3;

/// What a trigger may send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Flow {
    /// Whatever it has.
    #[default]
    Free,
    /// Nothing: its endpoint is down.
    Held,
    /// One event, to see whether its endpoint works again.
    Probe,
}

/// What the log is told, and which triggers it changes.
#[derive(Debug)]
pub(super) enum News {
    /// An endpoint is down. `quiet`: with our network, of which the log was told.
    Down { triggers: Vec<Uuid>, reason: String, next_probe: Duration, quiet: bool },
    /// An endpoint answers again.
    Up { triggers: Vec<Uuid>, after: Duration, quiet: bool },
    /// No host can be reached.
    NetworkDown { hosts: usize, reason: String },
    /// Hosts can be reached again.
    NetworkUp { after: Duration },
}

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Outages {
    endpoints: HashMap<Uri, Known>,
    /// Since when our own network has been down.
    network_down_since: Option<Instant>,
    news: Vec<News>,
    /// The earliest probe that nobody was asked for yet.
    next_probe: Option<Instant>,
}

#[derive(Debug, Default)]
struct Known {
    breaker: Breaker,
    triggers: Vec<Uuid>,
    /// Whether its triggers were asked for a probe.
    asked: bool,
    /// Whether the log was told that it is down.
    told: bool,
    /// Why it opened.
    reason: String,
    /// When it was tried last, and whether it was reached.
    tried: Option<(Instant, bool)>,
}

impl Outages {
    /// Takes over which triggers send where; what nobody sends to any more is forgotten.
    pub(super) fn assign<'a>(&mut self, triggers: impl Iterator<Item = (Uuid, &'a Uri)>) {
        self.endpoints.values_mut().for_each(|known| known.triggers.clear());
        for (id, url) in triggers {
            match self.endpoints.get_mut(url) {
                Some(known) => known.triggers.push(id),
                None => {
                    self.endpoints.insert(url.clone(), Known { triggers: vec![id], ..Known::default() });
                }
            }
        }
        self.endpoints.retain(|_, known| !known.triggers.is_empty());
        if self.endpoints.keys().map(host).collect::<HashSet<_>>().len() < HOSTS_OF_A_NETWORK {
            // Those that are left cannot tell.
            self.network_down_since = None;
        }
        self.find_next_probe();
    }

    /// What triggers of this URL may send.
    pub(super) fn flow(&self, url: &Uri) -> Flow {
        match self.endpoints.get(url) {
            Some(known) if known.breaker.is_open() && known.asked => Flow::Probe,
            Some(known) if known.breaker.is_open() => Flow::Held,
            _ => Flow::Free,
        }
    }

    /// Takes note of an attempt; says whether a failure is one of the event's own.
    pub(super) fn ended(&mut self, url: &Uri, ended: &Ended, reached: bool, reason: impl Fn() -> String) -> bool {
        let Some(known) = self.endpoints.get_mut(url) else { return true };
        known.tried = Some((ended.now, reached));
        // Also where a host is reached that always was: it may be the one that tells that the network is back.
        if !reached || self.network_down_since.is_some() {
            self.look_at_network(ended.now, &reason);
        }
        let network_down = self.network_down_since.is_some();
        let Some(known) = self.endpoints.get_mut(url) else { return true };
        let was_open = known.breaker.is_open();
        let judged = known.breaker.ended(ended, network_down && !reached);
        match judged.change {
            Some(Change::Opened) => known.reason = reason(),
            Some(Change::Answers { after }) => {
                let quiet = !std::mem::take(&mut known.told);
                self.news.push(News::Up { triggers: known.triggers.clone(), after, quiet });
            }
            None => {}
        }
        // What was not told because of the network is told when the network is back and the endpoint is not.
        let quiet = network_down && !reached;
        let is_new = judged.change == Some(Change::Opened);
        let to_be_told = is_new || (!known.told && !quiet);
        // A `Retry-After` may come after somebody was asked for a probe.
        let asked_too_early = |at: &Instant| known.asked && *at > ended.now;
        if let Some(at) = known.breaker.probe_at().filter(|at| to_be_told || asked_too_early(at)) {
            known.told |= to_be_told && !quiet;
            known.asked = false;
            let (triggers, reason) = (known.triggers.clone(), known.reason.clone());
            let (next_probe, quiet) = (at.saturating_duration_since(ended.now), quiet || !to_be_told);
            self.news.push(News::Down { triggers, reason, next_probe, quiet });
        }
        if was_open || is_new {
            self.find_next_probe();
        }
        judged.counts
    }

    /// Nothing was sent of this event.
    pub(super) fn withdrawn(&mut self, url: &Uri, event_id: EventId, now: Instant) {
        if let Some(known) = self.endpoints.get_mut(url) {
            known.breaker.withdrawn(event_id, now);
            self.find_next_probe();
        }
    }

    /// What is new since it was last asked for.
    pub(super) fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// When somebody is to be asked for a probe.
    pub(super) fn next_probe(&self) -> Option<Instant> {
        self.next_probe
    }

    /// The triggers that may send a probe from now on, until one does.
    pub(super) fn ask_for_probes(&mut self, now: Instant) -> Vec<Uuid> {
        let mut asked = Vec::new();
        for known in self.endpoints.values_mut() {
            if !known.asked && known.breaker.probe_at().is_some_and(|at| at <= now) {
                known.asked = true;
                asked.extend_from_slice(&known.triggers);
            }
        }
        self.find_next_probe();
        asked
    }

    /// This event goes out as a probe. Gives the triggers that may send nothing more for the time being.
    pub(super) fn probing(&mut self, url: &Uri, event_id: EventId) -> &[Uuid] {
        let Some(known) = self.endpoints.get_mut(url) else { return &[] };
        known.breaker.probing(event_id);
        known.asked = false;
        &known.triggers
    }

    /// The endpoints that are down: their triggers, why, and since when.
    pub(super) fn down(&self) -> impl Iterator<Item = (&[Uuid], &str, Instant)> {
        let open = |known: &'_ Known| known.breaker.open_since();
        self.endpoints
            .values()
            .filter_map(move |known| open(known).map(|since| (known.triggers.as_slice(), known.reason.as_str(), since)))
    }

    fn find_next_probe(&mut self) {
        let waiting = self.endpoints.values().filter(|known| !known.asked);
        self.next_probe = waiting.filter_map(|known| known.breaker.probe_at()).min();
    }

    /// Decides anew whether it is our own network that fails.
    fn look_at_network(&mut self, now: Instant, reason: &impl Fn() -> String) {
        let mut hosts: HashMap<&str, (Instant, bool)> = HashMap::new();
        for (url, known) in &self.endpoints {
            let Some(tried) = known.tried.filter(|(at, _)| now.saturating_duration_since(*at) < LATELY) else {
                continue;
            };
            let last = hosts.entry(host(url)).or_insert(tried);
            *last = tried.max(*last);
        }
        let (all, unreached) = (hosts.len(), hosts.values().filter(|(_, reached)| !reached).count());
        match self.network_down_since {
            None if unreached >= HOSTS_OF_A_NETWORK && unreached * 3 >= all * 2 => {
                self.network_down_since = Some(now);
                self.news.push(News::NetworkDown { hosts: unreached, reason: reason() });
            }
            // Not because of those that were not tried again: somebody has to be reached.
            Some(since) if unreached < all && (unreached * 2 < all || all < HOSTS_OF_A_NETWORK) => {
                self.network_down_since = None;
                self.news.push(News::NetworkUp { after: now.saturating_duration_since(since) });
                self.endpoints.values_mut().for_each(|known| known.breaker.probe_soon(now));
                self.find_next_probe();
            }
            _ => {}
        }
    }
}

fn host(url: &Uri) -> &str {
    url.authority().map_or("", |authority| authority.as_str())
}

#[cfg(test)]
mod tests {
    use super::super::breaker::Sign;
    use super::*;

    const DOWN: Sign = Sign::Down { retry_after: None };

    /// Hosts `0` to `9` with a trigger each; trigger 10 sends where trigger 0 does, 11 to another path of that host.
    struct Bench {
        outages: Outages,
        now: Instant,
        events: u128,
    }

    fn url(host: u128) -> Uri {
        match host {
            11 => "http://host0/other".parse().expect("a URL"),
            host => format!("http://host{}/", host % 10).parse().expect("a URL"),
        }
    }

    fn ids(numbers: &[u128]) -> Vec<Uuid> {
        numbers.iter().map(|number| Uuid::from_u128(*number)).collect()
    }

    impl Bench {
        fn new() -> Bench {
            let mut outages = Outages::default();
            let urls: Vec<Uri> = (0..12).map(url).collect();
            outages.assign((0..).map(Uuid::from_u128).zip(&urls));
            Bench { outages, now: Instant::now(), events: 0 }
        }

        /// An attempt of another event each time.
        fn ended(&mut self, host: u128, sign: Sign, reached: bool) -> bool {
            self.events += 1;
            self.now += Duration::from_millis(1);
            let event_id = Uuid::from_u128(self.events * 1024);
            let ended = Ended { event_id, sign, started_at: self.now, now: self.now };
            self.outages.ended(&url(host), &ended, reached, || "it broke".into())
        }

        /// Enough to open it.
        fn fail(&mut self, host: u128) {
            for _ in 0..5 {
                self.ended(host, DOWN, true);
            }
        }

        fn probe(&mut self, host: u128, sign: Sign, reached: bool) -> bool {
            self.outages.probing(&url(host), Uuid::from_u128((self.events + 1) * 1024));
            self.ended(host, sign, reached)
        }
    }

    #[test]
    fn triggers_of_one_url_are_held_together_and_another_path_of_the_host_goes_on() {
        let mut bench = Bench::new();
        let counted: Vec<bool> = (0..7).map(|_| bench.ended(0, DOWN, true)).collect();
        assert_eq!(counted, [true, true, true, true, false, false, false]);
        let news = bench.outages.take_news();
        assert!(matches!(&news[..], [News::Down { triggers, quiet: false, .. }] if *triggers == ids(&[0, 10])));
        assert_eq!(
            [0, 10, 11, 1].map(|host| bench.outages.flow(&url(host))),
            [Flow::Held, Flow::Held, Flow::Free, Flow::Free]
        );
        let down: Vec<_> = bench.outages.down().map(|(triggers, reason, _)| (triggers.len(), reason)).collect();
        assert_eq!(down, [(2, "it broke")]);
    }

    #[test]
    fn the_triggers_of_an_endpoint_are_asked_for_one_probe() {
        let mut bench = Bench::new();
        bench.fail(0);
        let at = bench.outages.next_probe().expect("a probe");
        assert!(bench.outages.ask_for_probes(bench.now).is_empty(), "too early");
        assert_eq!(bench.outages.ask_for_probes(at), ids(&[0, 10]));
        assert_eq!((bench.outages.flow(&url(0)), bench.outages.next_probe()), (Flow::Probe, None));
        assert!(bench.outages.ask_for_probes(at).is_empty(), "once");
        bench.now = at;
        assert!(!bench.probe(0, DOWN, true));
        assert!(bench.outages.next_probe().is_some_and(|next| next > at));
        assert_eq!(bench.outages.flow(&url(0)), Flow::Held);
        bench.outages.take_news();
        assert!(bench.probe(0, Sign::Accepted, true));
        let news = bench.outages.take_news();
        assert!(matches!(&news[..], [News::Up { triggers, quiet: false, .. }] if *triggers == ids(&[0, 10])));
        assert_eq!((bench.outages.flow(&url(10)), bench.outages.next_probe()), (Flow::Free, None));
    }

    #[test]
    fn when_most_hosts_are_not_reached_it_is_our_network_and_nothing_counts() {
        let mut bench = Bench::new();
        bench.ended(9, Sign::Accepted, true);
        assert!(bench.ended(0, DOWN, false) && bench.ended(11, DOWN, false) && bench.ended(1, DOWN, false));
        assert!(bench.outages.take_news().is_empty(), "two hosts");
        assert!(!bench.ended(2, DOWN, false));
        let news = bench.outages.take_news();
        assert!(matches!(&news[..], [News::NetworkDown { hosts: 3, .. }, News::Down { quiet: true, .. }]), "{news:?}");
        assert!(!bench.ended(3, DOWN, false) && !bench.ended(0, DOWN, false));
        assert!(bench.outages.take_news().iter().all(|news| matches!(news, News::Down { quiet: true, .. })));
        // A host that is reached and does not work is its own matter.
        assert!(bench.ended(9, DOWN, true));

        // Host 0 is back, but most are not.
        assert!(bench.probe(0, Sign::Accepted, true));
        let news = bench.outages.take_news();
        assert!(matches!(&news[..], [News::Up { quiet: true, .. }]), "{news:?}");
        bench.ended(1, Sign::Answered, true);
        let news = bench.outages.take_news();
        assert!(matches!(&news[..], [News::NetworkUp { .. }]), "{news:?}");
        // Nobody waits out a pause that was the network's.
        let mut asked = bench.outages.ask_for_probes(bench.now);
        asked.sort();
        assert_eq!(asked, ids(&[2, 3]));
        assert!(bench.probe(2, Sign::Accepted, true));
        let news = bench.outages.take_news();
        assert!(matches!(&news[..], [News::Up { quiet: true, .. }]), "{news:?}");
        assert!(!bench.probe(3, DOWN, false));
        let news = bench.outages.take_news();
        assert!(matches!(&news[..], [News::Down { quiet: false, .. }]), "now it is the host: {news:?}");
    }

    #[test]
    fn a_network_is_not_back_because_nobody_tried() {
        let mut bench = Bench::new();
        for host in [0, 1, 2] {
            bench.ended(host, DOWN, false);
        }
        bench.outages.take_news();
        bench.now += LATELY;
        assert!(!bench.probe(2, DOWN, false));
        assert!(!bench.ended(0, DOWN, false), "its first failure since, and it is the network's");
        assert!(!bench.outages.take_news().iter().any(|news| matches!(news, News::NetworkUp { .. })));
        assert!(bench.probe(2, Sign::Accepted, true));
        let news = bench.outages.take_news();
        assert!(matches!(&news[..], [News::NetworkUp { .. }, News::Up { .. }]), "{news:?}");
    }

    #[test]
    fn few_hosts_that_are_left_are_no_network() {
        let mut bench = Bench::new();
        for host in [0, 1, 2] {
            bench.ended(host, DOWN, false);
        }
        let urls = [url(3), url(4)];
        bench.outages.assign(ids(&[3, 4]).into_iter().zip(&urls));
        assert!(bench.ended(3, DOWN, false), "its own failure");
    }

    #[test]
    fn a_network_is_back_when_a_host_is_reached_that_always_was() {
        let mut bench = Bench::new();
        for host in [0, 1, 2] {
            bench.ended(host, DOWN, false);
        }
        for host in [3, 4, 5, 6] {
            bench.outages.take_news();
            bench.ended(host, Sign::Accepted, true);
        }
        let news = bench.outages.take_news();
        assert!(matches!(&news[..], [News::NetworkUp { .. }]), "{news:?}");
    }

    #[test]
    fn a_probe_that_was_asked_for_waits_for_a_retry_after_that_comes_before_it() {
        let mut bench = Bench::new();
        bench.fail(0);
        bench.now = bench.outages.next_probe().expect("a probe");
        assert_eq!(bench.outages.ask_for_probes(bench.now), ids(&[0, 10]));
        let wait = Duration::from_secs(60);
        assert!(!bench.ended(0, Sign::Down { retry_after: Some(wait) }, true));
        assert_eq!(bench.outages.flow(&url(0)), Flow::Held);
        assert_eq!(bench.outages.next_probe(), Some(bench.now + wait));
    }

    #[test]
    fn few_hosts_are_no_network_and_neither_are_old_failures() {
        let mut bench = Bench::new();
        for host in [0, 1] {
            assert!(bench.ended(host, DOWN, false));
        }
        bench.now += LATELY;
        assert!(bench.ended(2, DOWN, false) && bench.ended(3, DOWN, false));
        assert!(bench.outages.take_news().is_empty());
    }

    #[test]
    fn what_nobody_sends_to_is_forgotten_and_a_new_url_is_tried_at_once() {
        let mut bench = Bench::new();
        bench.fail(1);
        let urls = [url(1), url(2)];
        bench.outages.assign(ids(&[5, 6]).into_iter().zip(&urls));
        assert_eq!((bench.outages.flow(&url(1)), bench.outages.flow(&url(2))), (Flow::Held, Flow::Free));
        bench.outages.assign(ids(&[5, 6]).into_iter().zip(&[url(2), url(2)]));
        assert_eq!((bench.outages.endpoints.len(), bench.outages.next_probe()), (1, None));
        assert!(bench.ended(1, DOWN, true), "an attempt that nobody knows any more");
    }
}
