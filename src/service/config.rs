//! Settings that were checked. All that is wrong with them is reported together.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use super::source::{self, Source, value_or_file};
use super::{RawSettings, file};
use crate::capture;
use crate::postgres::Settings;
use crate::queue::Retention;
use crate::triggers::ReplicaIdentityPolicy;

/// What this node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Reading the WAL.
    pub capture: bool,
    /// Sending webhooks.
    pub delivery: bool,
    /// Answering the API.
    pub api: bool,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Usable settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// At least one.
    pub sources: Vec<Source>,
    /// The queue's database, which may be a source's.
    pub queue: Settings,
    /// Whether it was chosen, and is not just that of the one source.
    pub separate_queue: bool,
    /// Where the API listens.
    pub listen: SocketAddr,
    /// What callers of the API must know.
    pub admin_secret: Option<SecretString>,
    /// Lets a scraper read the metrics, as the admin secret does.
    pub metrics_secret: Option<SecretString>,
    /// What this node does.
    pub roles: Roles,
    /// How long requests under way may go on after a stop.
    pub grace: Duration,
    /// Requests under way at a time, of all triggers together.
    pub max_in_flight: usize,
    /// The longest that a webhook may ask to be left alone with `Retry-After`.
    pub max_retry_after: Duration,
    /// How long events are kept.
    pub retention: Retention,
    /// How long a node that delivers may be silent before others take it for dead.
    pub node_timeout: Duration,
    /// What is done with the replica identity of watched tables.
    pub replica_identity: ReplicaIdentityPolicy,
    /// Columns of type int8, float8 and numeric become strings.
    pub stringify_numeric_types: bool,
    /// How often a message is written into the source's WAL; `None` for never.
    pub heartbeat: Option<Duration>,
    /// Have the slot follow to standbys.
    pub slot_failover: bool,
    /// How log lines look; by the terminal where it is not set.
    pub log_format: Option<LogFormat>,
    /// Go on where WAL was lost.
    pub accept_gap: bool,
}

/// Everything that is wrong with the settings.
#[derive(Debug, Default)]
pub struct Problems(Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("these settings cannot be used:")?;
        self.0.iter().try_for_each(|problem| write!(out, "\n  - {problem}"))
    }
}

impl std::error::Error for Problems {}

impl Problems {
    pub(super) fn add(&mut self, problem: String) {
        self.0.push(problem);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps the value, or notes what is wrong with it.
    pub(super) fn note<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|problem| self.0.push(problem)).ok()
    }
}

const DEFAULT_LISTEN: &str = "127.0.0.1:8080";
const DEFAULT_GRACE: &str = "30s";
const DEFAULT_MAX_IN_FLIGHT: usize = 1024;
/// Each takes a connection and the memory of a request.
const MOST_IN_FLIGHT: usize = 10_000;
const DEFAULT_MAX_RETRY_AFTER: &str = "24h";
const DEFAULT_RETENTION: &str = "7d";
const DEFAULT_DEAD_RETENTION: &str = "30d";
const DEFAULT_NODE_TIMEOUT: &str = "3s";
const SHORTEST_NODE_TIMEOUT: Duration = Duration::from_secs(1);
const DEFAULT_HEARTBEAT: &str = "30s";

impl Config {
    /// Checks settings, with those of the file where they are silent.
    ///
    /// # Errors
    /// [`Problems`] names every setting at fault and what it may be; never a secret's value.
    pub fn load(raw: RawSettings, file: Option<&Path>) -> Result<Config, Problems> {
        let mut problems = Problems::default();
        let settings = match file {
            Some(path) => raw.or(file::read(path, &mut problems)),
            None => raw,
        };
        Config::check(settings, problems)
    }

    fn check(raw: RawSettings, mut problems: Problems) -> Result<Config, Problems> {
        let several = !raw.sources.is_empty();
        let sources = source::check(raw.source, raw.sources, &mut problems);
        let queue =
            problems.note(queue((raw.queue_url, raw.queue_url_file), (raw.queue_password, raw.queue_password_file)));
        let queue = queue.flatten();
        let separate_queue = queue.is_some();
        let queue = match (queue, sources.first()) {
            (None, Some(_)) if several => {
                problems.add("--queue-url is missing: several sources need to be told where their queue is".into());
                None
            }
            (None, Some(source)) => Some(source.database.clone()),
            (queue, _) => queue,
        };
        let admin_secret = secret("--admin-secret", raw.admin_secret, raw.admin_secret_file, &mut problems);
        let metrics_secret = secret("--metrics-secret", raw.metrics_secret, raw.metrics_secret_file, &mut problems);
        let listen = problems.note(address(raw.listen.as_deref().unwrap_or(DEFAULT_LISTEN)));
        let roles = problems.note(roles(raw.only.as_deref()));
        if roles.is_some_and(|roles| roles.api) && admin_secret.is_none() {
            problems.note(listen.map_or(Ok(()), reachable_by_nobody_else));
        }
        let grace = problems.note(duration("grace", raw.grace.as_deref().unwrap_or(DEFAULT_GRACE)));
        let max_in_flight = problems.note(max_in_flight(raw.max_in_flight.as_deref()));
        let max_retry_after = problems.note(max_retry_after(raw.max_retry_after.as_deref()));
        let retention = retention(raw.retention.as_deref(), raw.dead_retention.as_deref(), &mut problems);
        let replica_identity = problems.note(replica_identity(raw.replica_identity.as_deref()));
        let node_timeout = problems.note(node_timeout(raw.node_timeout.as_deref().unwrap_or(DEFAULT_NODE_TIMEOUT)));
        let stringify_numeric_types =
            problems.note(truth("stringify-numeric-types", raw.stringify_numeric_types.as_deref()));
        let heartbeat = problems.note(heartbeat(raw.heartbeat.as_deref().unwrap_or(DEFAULT_HEARTBEAT)));
        let slot_failover = problems.note(truth("slot-failover", raw.slot_failover.as_deref()));
        let log_format = problems.note(log_format(raw.log_format.as_deref()));
        let (Some(queue), Some(listen), Some(roles), Some(grace), Some(replica_identity)) =
            (queue, listen, roles, grace, replica_identity)
        else {
            return Err(problems);
        };
        let (Some(max_in_flight), Some(max_retry_after), Some(retention), Some(node_timeout), Some(heartbeat)) =
            (max_in_flight, max_retry_after, retention, node_timeout, heartbeat)
        else {
            return Err(problems);
        };
        let (Some(slot_failover), Some(log_format), true) = (slot_failover, log_format, problems.is_empty()) else {
            return Err(problems);
        };
        Ok(Config {
            sources,
            queue,
            separate_queue,
            listen,
            admin_secret,
            metrics_secret,
            roles,
            grace,
            max_in_flight,
            max_retry_after,
            retention,
            node_timeout,
            replica_identity,
            stringify_numeric_types: stringify_numeric_types.unwrap_or(false),
            heartbeat,
            slot_failover,
            log_format,
            accept_gap: raw.accept_gap,
        })
    }

    /// What the capture of a source needs of them.
    pub(super) fn capture_options(&self, source: &Source) -> capture::Options {
        capture::Options {
            database: source.database.clone(),
            queue: self.queue.clone(),
            source: source.name.clone(),
            slot: source.slot.clone(),
            publication: source.publication.clone(),
            stringify_numeric_types: self.stringify_numeric_types,
            heartbeat: self.heartbeat,
            failover: self.slot_failover,
            accept_gap: self.accept_gap,
        }
    }
}

fn queue(
    (url, url_file): (Option<String>, Option<PathBuf>),
    (password, password_file): (Option<String>, Option<PathBuf>),
) -> Result<Option<Settings>, String> {
    let place = |key: &str| format!("--{key}");
    source::database("queue", (url, url_file.as_deref()), (password, password_file.as_deref()), place)
}

/// A secret that is set; an empty one is none, but for that of a file, where somebody means one.
fn secret(name: &str, value: Option<String>, file: Option<PathBuf>, problems: &mut Problems) -> Option<SecretString> {
    let secret = problems.note(value_or_file(name, value, file.as_deref())).flatten()?;
    if secret.is_empty() {
        if let Some(file) = file {
            let problem =
                format!("{name}-file {}: it is empty; write the secret to it, or leave it out", file.display());
            problems.note::<()>(Err(problem));
        }
        return None;
    }
    Some(SecretString::from(secret))
}

fn reachable_by_nobody_else(listen: SocketAddr) -> Result<(), String> {
    match listen.ip().is_loopback() {
        true => Ok(()),
        false => Err(format!(
            "--listen {listen} is reachable from other machines and --admin-secret is not set: set one, or listen on \
             127.0.0.1"
        )),
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.replacen("localhost:", "127.0.0.1:", 1);
    text.parse().map_err(|_| format!("--listen {text:?}: use an address with a port, such as {DEFAULT_LISTEN}"))
}

fn max_in_flight(text: Option<&str>) -> Result<usize, String> {
    let Some(text) = text else { return Ok(DEFAULT_MAX_IN_FLIGHT) };
    let count = text.parse().ok().filter(|count| (1..=MOST_IN_FLIGHT).contains(count));
    count.ok_or_else(|| format!("--max-in-flight {text:?}: use a number from 1 to {MOST_IN_FLIGHT}"))
}

fn max_retry_after(text: Option<&str>) -> Result<Duration, String> {
    duration("max-retry-after", text.unwrap_or(DEFAULT_MAX_RETRY_AFTER))
}

fn duration(name: &str, text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| format!("--{name} {text:?}: use a duration such as 30s or 5m"))
}

/// How long events are kept; dead ones never shorter than the others.
fn retention(events: Option<&str>, dead: Option<&str>, problems: &mut Problems) -> Option<Retention> {
    let mut read = |name, text: Option<&str>, usual| {
        let read = duration(name, text.unwrap_or(usual)).and_then(|time| match time {
            Duration::ZERO => Err(format!("--{name} 0: use a duration such as {usual}")),
            time => Ok(time),
        });
        problems.note(read)
    };
    let events = read("retention", events, DEFAULT_RETENTION);
    let dead = read("dead-retention", dead, DEFAULT_DEAD_RETENTION);
    let (events, dead) = events.zip(dead)?;
    Some(Retention { events, dead: dead.max(events) })
}

fn node_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration("node-timeout", text)?;
    let long_enough = timeout >= SHORTEST_NODE_TIMEOUT;
    long_enough.then_some(timeout).ok_or_else(|| format!("--node-timeout {text:?}: use 1s or more"))
}

/// `None` for off.
fn heartbeat(text: &str) -> Result<Option<Duration>, String> {
    match text {
        "off" => Ok(None),
        text => match duration("heartbeat", text)? {
            Duration::ZERO => Err("--heartbeat 0: use off, or a duration such as 30s".into()),
            every => Ok(Some(every)),
        },
    }
}

fn replica_identity(text: Option<&str>) -> Result<ReplicaIdentityPolicy, String> {
    match text {
        None | Some("full") => Ok(ReplicaIdentityPolicy::Full),
        Some("keep") => Ok(ReplicaIdentityPolicy::Keep),
        Some(other) => Err(format!("--replica-identity {other:?}: use full or keep")),
    }
}

/// `None` where it depends on where the log goes.
fn log_format(text: Option<&str>) -> Result<Option<LogFormat>, String> {
    match text {
        None => Ok(None),
        Some("text") => Ok(Some(LogFormat::Text)),
        Some("json") => Ok(Some(LogFormat::Json)),
        Some(other) => Err(format!("--log-format {other:?}: use text or json")),
    }
}

fn truth(name: &str, text: Option<&str>) -> Result<bool, String> {
    match text {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(format!("--{name} {other:?}: use true or false")),
    }
}

fn roles(only: Option<&str>) -> Result<Roles, String> {
    let Some(only) = only else { return Ok(Roles { capture: true, delivery: true, api: true }) };
    let mut roles = Roles { capture: false, delivery: false, api: false };
    for name in only.split(',').map(str::trim) {
        match name {
            "capture" => roles.capture = true,
            "delivery" => roles.delivery = true,
            "api" => roles.api = true,
            other => return Err(format!("--only {other:?}: use capture, delivery and api, joined by commas")),
        }
    }
    Ok(roles)
}

#[cfg(test)]
mod tests {
    use super::super::RawSource;
    use super::*;

    fn check(raw: RawSettings) -> Result<Config, Problems> {
        Config::check(raw, Problems::default())
    }

    fn raw() -> RawSettings {
        RawSettings { source: at("postgres://me:hunter2@db/app"), ..Default::default() }
    }

    fn at(url: &str) -> RawSource {
        RawSource { database_url: Some(url.into()), ..RawSource::default() }
    }

    #[test]
    fn a_file_without_a_secret_is_a_problem() {
        let empty = tempfile::NamedTempFile::new().expect("a file");
        let from = |file: &std::path::Path| RawSettings { admin_secret_file: Some(file.into()), ..raw() };
        let problems = check(from(empty.path())).expect_err("no secret").to_string();
        assert!(problems.contains("--admin-secret-file") && problems.contains("it is empty"), "{problems}");
        std::fs::write(empty.path(), "s3cret\n").expect("a secret");
        assert!(check(from(empty.path())).expect("usable").admin_secret.is_some());
        assert!(
            check(RawSettings { admin_secret: Some(String::new()), ..raw() }).expect("usable").admin_secret.is_none()
        );
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let config = check(raw()).expect("usable");
        let source = &config.sources[0];
        assert_eq!((source.slot.as_str(), source.publication.as_str()), ("walhook_default", "walhook_default"));
        assert_eq!(config.listen.to_string(), DEFAULT_LISTEN);
        assert_eq!(config.grace, Duration::from_secs(30));
        assert_eq!(config.max_in_flight, 1024);
        assert_eq!(config.max_retry_after, Duration::from_secs(24 * 60 * 60));
        let day = Duration::from_secs(86_400);
        assert_eq!(config.retention, Retention { events: 7 * day, dead: 30 * day });
        assert!(config.roles.capture && config.roles.delivery && config.roles.api);
        assert!(!format!("{config:?}").contains("hunter2"), "the password must not be printed");
    }

    #[test]
    fn every_problem_is_reported_at_once_and_no_secret_is_named() {
        let bad = RawSettings {
            source: at("postgres://me:hunter2@db:x/app"),
            queue_password: Some("hunter2".into()),
            listen: Some("0.0.0.0:80".into()),
            grace: Some("soon".into()),
            max_in_flight: Some("0".into()),
            max_retry_after: Some("a while".into()),
            retention: Some("0d".into()),
            dead_retention: Some("never".into()),
            only: Some("capture,tea".into()),
            log_format: Some("xml".into()),
            replica_identity: Some("none".into()),
            stringify_numeric_types: Some("maybe".into()),
            heartbeat: Some("0s".into()),
            slot_failover: Some("perhaps".into()),
            ..Default::default()
        };
        let text = check(bad).expect_err("not usable").to_string();
        for name in [
            "--database-url",
            "--queue-password",
            "--grace",
            "--max-in-flight",
            "--max-retry-after",
            "--retention 0",
            "--dead-retention",
            "--only",
            "--log-format",
            "--replica-identity",
            "--stringify-numeric-types",
            "--heartbeat",
            "--slot-failover",
        ] {
            assert!(text.contains(name), "{name} is not in: {text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn a_password_stands_in_one_place() {
        let bare = RawSettings { source: at("postgres://me@db/app"), ..Default::default() };
        let with = |raw: &RawSettings, password: Option<&str>, file: Option<&str>| {
            let (database_password, database_password_file) = (password.map(Into::into), file.map(Into::into));
            let source = RawSource { database_password, database_password_file, ..raw.source.clone() };
            check(RawSettings { source, ..raw.clone() })
        };
        assert!(with(&bare, Some("hunter2"), None).is_ok());
        for (raw, password, file) in [
            (&bare, Some("hunter2"), Some("/dev/null")),
            (&bare, None, Some("/nowhere")),
            (&raw(), Some("hunter3"), None),
        ] {
            let text = with(raw, password, file).expect_err("not usable").to_string();
            assert!(text.contains("--database-password") && !text.contains("hunter"), "{text}");
        }
    }

    #[test]
    fn an_open_address_needs_a_secret() {
        let open = RawSettings { listen: Some("0.0.0.0:8080".into()), ..raw() };
        assert!(check(open.clone()).expect_err("open").to_string().contains("--admin-secret"));
        assert!(check(RawSettings { admin_secret: Some("x".into()), ..open.clone() }).is_ok());
        assert!(check(RawSettings { only: Some("capture".into()), ..open }).is_ok(), "no API, no listening");
    }

    #[test]
    fn the_file_is_what_is_used_where_nothing_else_is_set() {
        let file =
            RawSettings { listen: Some("127.0.0.1:1".into()), source: named("file", "db"), ..RawSettings::default() };
        let merged = RawSettings { listen: Some("127.0.0.1:2".into()), ..raw() }.or(file);
        assert_eq!(merged.listen.as_deref(), Some("127.0.0.1:2"));
        assert_eq!(merged.source.name.as_deref(), Some("file"));
        assert_eq!(merged.source.database_url, raw().source.database_url);
    }

    fn named(name: &str, host: &str) -> RawSource {
        RawSource { name: Some(name.into()), ..at(&format!("postgres://me@{host}/app")) }
    }

    #[test]
    fn several_sources_have_names_and_slots_of_their_own_and_a_queue_that_was_chosen() {
        let queue_url = Some("postgres://me@queue/app".to_owned());
        let sources = vec![named("orders", "one"), named("Stock-EU", "two")];
        let good = RawSettings { sources, queue_url, ..RawSettings::default() };
        let config = check(good.clone()).expect("usable");
        let slots: Vec<&str> = config.sources.iter().map(|source| source.slot.as_str()).collect();
        assert_eq!(slots, ["walhook_orders", "walhook_stock_eu"]);

        let same_slot = RawSource { slot: Some("walhook_orders".into()), ..named("bills", "one") };
        for (bad, problem) in [
            (RawSettings { queue_url: None, ..good.clone() }, "--queue-url is missing"),
            (
                RawSettings { source: at("postgres://me@db/app"), ..good.clone() },
                "--database-url and [[source]] are both",
            ),
            (with_source(&good, named("orders", "three")), "[[source]] \"orders\": another source has this name"),
            (with_source(&good, same_slot), "[[source]] \"bills\": slot walhook_orders is that of source \"orders\""),
            (with_source(&good, at("postgres://me@db/app")), "[[source]] number 3: name is missing"),
            (
                with_source(&good, RawSource { name: Some("x".into()), ..RawSource::default() }),
                "[[source]] \"x\": database-url is",
            ),
        ] {
            let found = check(bad).expect_err("not usable").to_string();
            assert!(found.contains(problem), "{problem} is not in: {found}");
        }
    }

    fn with_source(raw: &RawSettings, source: RawSource) -> RawSettings {
        let sources = raw.sources.iter().cloned().chain([source]).collect();
        RawSettings { sources, ..raw.clone() }
    }
}
