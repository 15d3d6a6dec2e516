//! Settings that were checked. All that is wrong with them is reported together.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use secrecy::SecretString;

use super::{RawSettings, file};
use crate::capture;
use crate::postgres::Settings;
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
    /// The source database.
    pub database: Settings,
    /// The queue's database; `None` where it is the source's own.
    pub queue: Option<Settings>,
    /// The source's name.
    pub source: String,
    /// The slot's name.
    pub slot: String,
    /// The publication's name.
    pub publication: String,
    /// Where the API listens.
    pub listen: SocketAddr,
    /// What callers of the API must know.
    pub admin_secret: Option<SecretString>,
    /// What this node does.
    pub roles: Roles,
    /// How long requests under way may go on after a stop.
    pub grace: Duration,
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
    fn note<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|problem| self.0.push(problem)).ok()
    }
}

const DEFAULT_LISTEN: &str = "127.0.0.1:8080";
const DEFAULT_GRACE: &str = "30s";
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
        let source = raw.source.unwrap_or_else(|| "default".into());
        let own_name = format!("walhook_{}", source.to_lowercase().replace('-', "_"));
        let url = (raw.database_url, raw.database_url_file.as_deref());
        let password = (raw.database_password, raw.database_password_file.as_deref());
        let database = problems.note(database("database", url, password).and_then(|database| {
            let missing = "--database-url is missing (or WALHOOK_DATABASE_URL, or database-url in the file)";
            database.ok_or_else(|| missing.into())
        }));
        let url = (raw.queue_url, raw.queue_url_file.as_deref());
        let password = (raw.queue_password, raw.queue_password_file.as_deref());
        let queue = problems.note(self::database("queue", url, password));
        let secret = value_or_file("admin-secret", raw.admin_secret, raw.admin_secret_file.as_deref());
        let admin_secret = problems.note(secret).flatten().filter(|secret| !secret.is_empty());
        let listen = problems.note(address(raw.listen.as_deref().unwrap_or(DEFAULT_LISTEN)));
        let roles = problems.note(roles(raw.only.as_deref()));
        let open = listen.filter(|listen| !listen.ip().is_loopback() && roles.is_some_and(|roles| roles.api));
        if let (Some(listen), None) = (open, &admin_secret) {
            problems.add(format!(
                "--listen {listen} is reachable from other machines and --admin-secret is not set: \
                 set one, or listen on 127.0.0.1"
            ));
        }
        let grace = problems.note(duration("grace", raw.grace.as_deref().unwrap_or(DEFAULT_GRACE)));
        let replica_identity = problems.note(match raw.replica_identity.as_deref() {
            None | Some("full") => Ok(ReplicaIdentityPolicy::Full),
            Some("keep") => Ok(ReplicaIdentityPolicy::Keep),
            Some(other) => Err(format!("--replica-identity {other:?}: use full or keep")),
        });
        let stringify_numeric_types =
            problems.note(truth("stringify-numeric-types", raw.stringify_numeric_types.as_deref()));
        let heartbeat = problems.note(heartbeat(raw.heartbeat.as_deref().unwrap_or(DEFAULT_HEARTBEAT)));
        let slot_failover = problems.note(truth("slot-failover", raw.slot_failover.as_deref()));
        let log_format = problems.note(match raw.log_format.as_deref() {
            None => Ok(None),
            Some("text") => Ok(Some(LogFormat::Text)),
            Some("json") => Ok(Some(LogFormat::Json)),
            Some(other) => Err(format!("--log-format {other:?}: use text or json")),
        });
        let (Some(database), Some(queue), Some(listen), Some(roles), Some(grace), Some(replica_identity)) =
            (database, queue, listen, roles, grace, replica_identity)
        else {
            return Err(problems);
        };
        let (Some(heartbeat), Some(slot_failover), Some(log_format), true) =
            (heartbeat, slot_failover, log_format, problems.is_empty())
        else {
            return Err(problems);
        };
        Ok(Config {
            database,
            queue,
            slot: raw.slot.unwrap_or_else(|| own_name.clone()),
            publication: raw.publication.unwrap_or(own_name),
            source,
            listen,
            admin_secret: admin_secret.map(SecretString::from),
            roles,
            grace,
            replica_identity,
            stringify_numeric_types: stringify_numeric_types.unwrap_or(false),
            heartbeat,
            slot_failover,
            log_format,
            accept_gap: raw.accept_gap,
        })
    }

    /// The database that holds the queue.
    pub fn queue(&self) -> &Settings {
        self.queue.as_ref().unwrap_or(&self.database)
    }

    /// What capture needs of them.
    pub(super) fn capture_options(&self) -> capture::Options {
        capture::Options {
            database: self.database.clone(),
            queue: self.queue().clone(),
            source: self.source.clone(),
            slot: self.slot.clone(),
            publication: self.publication.clone(),
            stringify_numeric_types: self.stringify_numeric_types,
            heartbeat: self.heartbeat,
            failover: self.slot_failover,
            accept_gap: self.accept_gap,
        }
    }
}

/// The database that `--NAME-url` names, with the password that `--NAME-password` may hold in its place.
fn database(
    name: &str,
    (url, url_file): (Option<String>, Option<&Path>),
    password: (Option<String>, Option<&Path>),
) -> Result<Option<Settings>, String> {
    let Some(url) = value_or_file(&format!("{name}-url"), url, url_file)? else {
        return match password {
            (None, None) => Ok(None),
            _ => Err(format!("--{name}-password is set without --{name}-url")),
        };
    };
    let database: Settings = url.parse().map_err(|error| format!("--{name}-url: {error}"))?;
    match password {
        (None, None) => Ok(database),
        _ if database.holds_password() => {
            Err(format!("--{name}-password is set, and --{name}-url holds one too: leave one out"))
        }
        (Some(_), Some(_)) => Err(format!("--{name}-password and --{name}-password-file are both set: set one")),
        (Some(password), None) => Ok(database.with_password(&password)),
        (None, Some(path)) => {
            database.with_password_file(path).map_err(|error| format!("--{name}-password-file: {error}"))
        }
    }
    .map(Some)
}

fn value_or_file(name: &str, value: Option<String>, file: Option<&Path>) -> Result<Option<String>, String> {
    match (value, file) {
        (Some(_), Some(_)) => Err(format!("--{name} and --{name}-file are both set: set one")),
        (value, None) => Ok(value),
        (None, Some(path)) => std::fs::read_to_string(path)
            .map(|text| Some(text.trim_end_matches(['\r', '\n']).to_owned()))
            .map_err(|error| format!("--{name}-file {}: {error}", path.display())),
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.replacen("localhost:", "127.0.0.1:", 1);
    text.parse().map_err(|_| format!("--listen {text:?}: use an address with a port, such as {DEFAULT_LISTEN}"))
}

fn duration(name: &str, text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| format!("--{name} {text:?}: use a duration such as 30s or 5m"))
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
    use super::*;

    fn check(raw: RawSettings) -> Result<Config, Problems> {
        Config::check(raw, Problems::default())
    }

    fn raw() -> RawSettings {
        RawSettings { database_url: Some("postgres://me:hunter2@db/app".into()), ..Default::default() }
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let config = check(raw()).expect("usable");
        assert_eq!((config.slot.as_str(), config.publication.as_str()), ("walhook_default", "walhook_default"));
        assert_eq!(config.listen.to_string(), DEFAULT_LISTEN);
        assert_eq!(config.grace, Duration::from_secs(30));
        assert!(config.roles.capture && config.roles.delivery && config.roles.api);
        assert!(!format!("{config:?}").contains("hunter2"), "the password must not be printed");
    }

    #[test]
    fn every_problem_is_reported_at_once_and_no_secret_is_named() {
        let bad = RawSettings {
            database_url: Some("postgres://me:hunter2@db:x/app".into()),
            listen: Some("0.0.0.0:80".into()),
            grace: Some("soon".into()),
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
            "--grace",
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
        let bare = RawSettings { database_url: Some("postgres://me@db/app".into()), ..Default::default() };
        let with = |raw: &RawSettings, password: Option<&str>, file: Option<&str>| {
            let (database_password, database_password_file) = (password.map(Into::into), file.map(Into::into));
            check(RawSettings { database_password, database_password_file, ..raw.clone() })
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
            RawSettings { listen: Some("127.0.0.1:1".into()), source: Some("file".into()), ..RawSettings::default() };
        let merged = RawSettings { listen: Some("127.0.0.1:2".into()), ..raw() }.or(file);
        assert_eq!(merged.listen.as_deref(), Some("127.0.0.1:2"));
        assert_eq!(merged.source.as_deref(), Some("file"));
    }
}
