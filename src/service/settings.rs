//! Settings as they are given: by flag, by variable, in the file; in that precedence. Nothing is checked here.

use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;

/// A source: settings by themselves where there is one, keys of a `[[source]]` table of the file where there are
/// several. There the name's key is `name`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct RawSource {
    /// Name of the source [default: default]
    #[arg(long = "source", env = "WALHOOK_SOURCE", value_name = "NAME")]
    #[serde(alias = "source")]
    pub name: Option<String>,
    /// Replication slot; walhook_ and the source's name unless given
    #[arg(long, env = "WALHOOK_SLOT", value_name = "NAME")]
    pub slot: Option<String>,
    /// Publication; walhook_ and the source's name unless given
    #[arg(long, env = "WALHOOK_PUBLICATION", value_name = "NAME")]
    pub publication: Option<String>,
    /// The source database, such as postgres://walhook:secret@db:5432/app (required)
    #[arg(long, env = "WALHOOK_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// A file that holds the database URL
    #[arg(long, env = "WALHOOK_DATABASE_URL_FILE", value_name = "FILE")]
    pub database_url_file: Option<PathBuf>,
    /// The password for the database URL, where it holds none
    #[arg(long, env = "WALHOOK_DATABASE_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    pub database_password: Option<String>,
    /// A file that holds this password; it is read at each connection
    #[arg(long, env = "WALHOOK_DATABASE_PASSWORD_FILE", value_name = "FILE")]
    pub database_password_file: Option<PathBuf>,
}

/// Each setting once, for the command line, the environment and the file alike. Names are a public contract.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct RawSettings {
    /// The one source, where the file has no `[[source]]`.
    #[command(flatten)]
    #[serde(flatten)]
    pub source: RawSource,
    /// The file's `[[source]]` tables.
    #[arg(skip)]
    #[serde(skip)]
    pub sources: Vec<RawSource>,
    /// The database that holds the queue [default: the source database]
    #[arg(long, env = "WALHOOK_QUEUE_URL", hide_env_values = true, value_name = "URL")]
    pub queue_url: Option<String>,
    /// A file that holds the queue's URL
    #[arg(long, env = "WALHOOK_QUEUE_URL_FILE", value_name = "FILE")]
    pub queue_url_file: Option<PathBuf>,
    /// The password for the queue's URL, where it holds none
    #[arg(long, env = "WALHOOK_QUEUE_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    pub queue_password: Option<String>,
    /// A file that holds this password; it is read at each connection
    #[arg(long, env = "WALHOOK_QUEUE_PASSWORD_FILE", value_name = "FILE")]
    pub queue_password_file: Option<PathBuf>,
    /// Address of the API [default: 127.0.0.1:8080]
    #[arg(long, env = "WALHOOK_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Secret that API callers must send as X-Hasura-Admin-Secret; needed to listen on more than loopback
    #[arg(long, env = "WALHOOK_ADMIN_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub admin_secret: Option<String>,
    /// A file that holds the admin secret
    #[arg(long, env = "WALHOOK_ADMIN_SECRET_FILE", value_name = "FILE")]
    pub admin_secret_file: Option<PathBuf>,
    /// Secret that lets a scraper read /metrics, sent as Authorization: Bearer [default: the admin secret]
    #[arg(long, env = "WALHOOK_METRICS_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub metrics_secret: Option<String>,
    /// A file that holds this secret
    #[arg(long, env = "WALHOOK_METRICS_SECRET_FILE", value_name = "FILE")]
    pub metrics_secret_file: Option<PathBuf>,
    /// What this node does, of capture, delivery and api, joined by commas [default: all]
    #[arg(long, env = "WALHOOK_ONLY", value_name = "ROLES")]
    pub only: Option<String>,
    /// How long requests under way may go on after a stop [default: 30s]
    #[arg(long, env = "WALHOOK_GRACE", value_name = "DURATION")]
    pub grace: Option<String>,
    /// Requests under way at a time, of all triggers together [default: 1024]
    #[arg(long, env = "WALHOOK_MAX_IN_FLIGHT", value_name = "COUNT")]
    pub max_in_flight: Option<String>,
    /// The longest that a webhook may ask to be left alone with Retry-After [default: 24h]
    #[arg(long, env = "WALHOOK_MAX_RETRY_AFTER", value_name = "DURATION")]
    pub max_retry_after: Option<String>,
    /// How long delivered events are kept, from the end of their day on [default: 7d]
    #[arg(long, env = "WALHOOK_RETENTION", value_name = "DURATION")]
    pub retention: Option<String>,
    /// How long dead events are kept, at least --retention [default: 30d]
    #[arg(long, env = "WALHOOK_DEAD_RETENTION", value_name = "DURATION")]
    pub dead_retention: Option<String>,
    /// How long a node may be silent before others deliver what it did [default: 3s]
    #[arg(long, env = "WALHOOK_NODE_TIMEOUT", value_name = "DURATION")]
    pub node_timeout: Option<String>,
    /// Replica identity of watched tables: full sets it to FULL, keep leaves it [default: full]
    #[arg(long, env = "WALHOOK_REPLICA_IDENTITY", value_name = "full|keep")]
    pub replica_identity: Option<String>,
    /// Send columns of type bigint, numeric and double precision as strings, as Hasura can [default: false]
    #[arg(long, env = "WALHOOK_STRINGIFY_NUMERIC_TYPES", value_name = "true|false", num_args = 0..=1,
          require_equals = true, default_missing_value = "true")]
    pub stringify_numeric_types: Option<String>,
    /// How often a message is written into the source's WAL so that its slot moves on where only other databases
    /// write; or off [default: 30s]
    #[arg(long, env = "WALHOOK_HEARTBEAT", value_name = "DURATION|off")]
    pub heartbeat: Option<String>,
    /// Have the slot follow to standbys; needs Postgres 17 [default: false]
    #[arg(long, env = "WALHOOK_SLOT_FAILOVER", value_name = "true|false", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub slot_failover: Option<String>,
    /// Log lines as text or json [default: text on a terminal, else json]
    #[arg(long, env = "WALHOOK_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Go on where WAL was lost, once: see walhook.gap
    #[arg(long)]
    #[serde(skip)]
    pub accept_gap: bool,
}

impl RawSource {
    fn or(self, file: RawSource) -> RawSource {
        let url_given = self.database_url.is_some() || self.database_url_file.is_some();
        let password_given = self.database_password.is_some() || self.database_password_file.is_some();
        let unless = |given: bool, text: Option<String>| text.filter(|_| !given);
        RawSource {
            name: self.name.or(file.name),
            slot: self.slot.or(file.slot),
            publication: self.publication.or(file.publication),
            database_url: self.database_url.or(unless(url_given, file.database_url)),
            database_url_file: self.database_url_file.or(file.database_url_file.filter(|_| !url_given)),
            database_password: self.database_password.or(unless(password_given, file.database_password)),
            database_password_file: self
                .database_password_file
                .or(file.database_password_file.filter(|_| !password_given)),
        }
    }
}

impl RawSettings {
    /// These settings, and where they are silent those of the file.
    pub fn or(self, file: RawSettings) -> RawSettings {
        // A value and its `_file` form are one setting: one given on the command line or in the environment hides both.
        let queue_given = self.queue_url.is_some() || self.queue_url_file.is_some();
        let queue_password_given = self.queue_password.is_some() || self.queue_password_file.is_some();
        let secret_given = self.admin_secret.is_some() || self.admin_secret_file.is_some();
        let metrics_secret_given = self.metrics_secret.is_some() || self.metrics_secret_file.is_some();
        let unless = |given: bool, text: Option<String>| text.filter(|_| !given);
        RawSettings {
            source: self.source.or(file.source),
            sources: file.sources,
            queue_url: self.queue_url.or(unless(queue_given, file.queue_url)),
            queue_url_file: self.queue_url_file.or(file.queue_url_file.filter(|_| !queue_given)),
            queue_password: self.queue_password.or(unless(queue_password_given, file.queue_password)),
            queue_password_file: self
                .queue_password_file
                .or(file.queue_password_file.filter(|_| !queue_password_given)),
            listen: self.listen.or(file.listen),
            admin_secret: self.admin_secret.or(unless(secret_given, file.admin_secret)),
            admin_secret_file: self.admin_secret_file.or(file.admin_secret_file.filter(|_| !secret_given)),
            metrics_secret: self.metrics_secret.or(unless(metrics_secret_given, file.metrics_secret)),
            metrics_secret_file: self
                .metrics_secret_file
                .or(file.metrics_secret_file.filter(|_| !metrics_secret_given)),
            only: self.only.or(file.only),
            grace: self.grace.or(file.grace),
            max_in_flight: self.max_in_flight.or(file.max_in_flight),
            max_retry_after: self.max_retry_after.or(file.max_retry_after),
            retention: self.retention.or(file.retention),
            dead_retention: self.dead_retention.or(file.dead_retention),
            node_timeout: self.node_timeout.or(file.node_timeout),
            replica_identity: self.replica_identity.or(file.replica_identity),
            stringify_numeric_types: self.stringify_numeric_types.or(file.stringify_numeric_types),
            heartbeat: self.heartbeat.or(file.heartbeat),
            slot_failover: self.slot_failover.or(file.slot_failover),
            log_format: self.log_format.or(file.log_format),
            accept_gap: self.accept_gap,
        }
    }
}
