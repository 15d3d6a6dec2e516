//! Sessions and the pool, made from one connection string.

use std::ops::Deref;
use std::str::FromStr;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, RecyclingMethod, Runtime};
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, NoTls};

use super::Error;

/// Sessions for short work: the API, and reading the backlog back.
pub type Pool = deadpool_postgres::Pool;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// After this long without an acknowledgement the kernel gives a connection up, so that a cut network ends in an error.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);

/// Where a database is and who connects. Prints without the password.
#[derive(Clone)]
pub struct Settings {
    config: Config,
}

impl FromStr for Settings {
    type Err = Error;

    /// Reads a `postgres://` URL or a `key=value` string, as libpq does.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut config: Config = text.parse().map_err(|error: tokio_postgres::Error| {
            // The parser's own words name the key or the place, not the value.
            Error::Settings(std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string))
        })?;
        if matches!(config.get_ssl_mode(), SslMode::Require) {
            return Err(Error::Settings(
                "sslmode=require: this release connects without TLS; leave sslmode out".into(),
            ));
        }
        if config.get_hosts().is_empty() {
            return Err(Error::Settings("it names no host".into()));
        }
        config.connect_timeout(CONNECT_TIMEOUT).keepalives(true).keepalives_idle(KEEPALIVE_IDLE);
        config.tcp_user_timeout(TCP_USER_TIMEOUT);
        Ok(Settings { config })
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}@{}/{}", self.user(), self.address(), self.database())
    }
}

impl Settings {
    /// The first host: a name, an address, or the directory of a Unix socket.
    pub fn host(&self) -> String {
        match self.config.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            #[cfg(unix)]
            Some(Host::Unix(path)) => path.display().to_string(),
            None => String::new(),
        }
    }

    /// The first port, 5432 unless given.
    pub fn port(&self) -> u16 {
        self.config.get_ports().first().copied().unwrap_or(5432)
    }

    /// Host and port for messages.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host(), self.port())
    }

    /// The role that connects.
    pub fn user(&self) -> &str {
        self.config.get_user().unwrap_or("postgres")
    }

    /// The database; the role's name unless given, as in libpq.
    pub fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_else(|| self.user())
    }

    /// The password, for the replication connection, which tokio-postgres cannot make.
    pub fn password(&self) -> String {
        self.config.get_password().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    }

    /// The driver's settings, with this name shown in `pg_stat_activity` and the session pinned to UTC. Commits are
    /// durable when they are answered, also in a database that was told otherwise: what is acknowledged to the slot or
    /// to a webhook must not be lost in a crash of the server.
    fn driver(&self, application_name: &str) -> Config {
        let mut config = self.config.clone();
        config.application_name(application_name);
        let given = config.get_options().map(|options| format!("{options} ")).unwrap_or_default();
        let pinned = "-c timezone=UTC -c datestyle=ISO -c search_path=pg_catalog -c synchronous_commit=on";
        config.options(format!("{given}{pinned}"));
        config
    }
}

/// One connection of its own. The connection ends when this is dropped.
pub struct Session {
    client: Client,
    driver: JoinHandle<()>,
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl std::ops::DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Opens a session. `search_path` is `pg_catalog` on it, so every statement names its schema.
///
/// # Errors
/// [`Error::ConnectTimeout`] and [`Error::Postgres`]; ask [`Error::class`] whether to try again.
pub async fn connect(settings: &Settings, application_name: &str) -> Result<Session, Error> {
    let config = settings.driver(application_name);
    let connecting = config.connect(NoTls);
    let (client, connection) = tokio::time::timeout(CONNECT_TIMEOUT * 2, Box::pin(connecting))
        .await
        .map_err(|_| Error::ConnectTimeout { address: settings.address(), seconds: CONNECT_TIMEOUT.as_secs() * 2 })??;
    // Its error reaches the caller through the client's next call, so it is not reported twice.
    let driver = tokio::spawn(async move { drop(connection.await) });
    Ok(Session { client, driver })
}

/// A pool of at most `size` sessions, opened when first needed.
pub fn pool(settings: &Settings, application_name: &str, size: usize) -> Pool {
    let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(settings.driver(application_name), NoTls, manager_config);
    Pool::builder(manager)
        .max_size(size)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(CONNECT_TIMEOUT))
        .create_timeout(Some(CONNECT_TIMEOUT))
        .build()
        .expect("a pool with a runtime and timeouts is complete")
}
