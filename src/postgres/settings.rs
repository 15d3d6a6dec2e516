//! Where a database is, who connects and how: read once from a connection string, used by every connection.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, Host, SslMode, SslNegotiation};

use super::Error;
use super::parameters::{self, Split};
use super::password::{Login, Password};
use super::tls::{Files, Mode, Tls};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// After this long without an acknowledgement the kernel gives a connection up, so that a cut network ends in an error.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_COUNT: u32 = 3;

/// Where a database is and who connects. Prints without the password.
#[derive(Clone)]
pub struct Settings {
    config: Config,
    user: String,
    password: Option<Password>,
    tls: Tls,
}

/// One of the places that a connection string names.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// A name, an address, or the directory of a Unix socket.
    pub host: Host,
    /// Where to connect instead of looking the name up.
    pub address: Option<std::net::IpAddr>,
    /// The server's port.
    pub port: u16,
}

impl Target {
    /// The host as it was given.
    pub fn host(&self) -> String {
        match &self.host {
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(path) => path.display().to_string(),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}:{}", self.host(), self.port)
    }
}

impl FromStr for Settings {
    type Err = Error;

    /// Reads a `postgres://` URL or a `key=value` string, as libpq does. Files of certificates must be readable.
    fn from_str(text: &str) -> Result<Self, Error> {
        let Split { driver, mut ours } = parameters::split(text)?;
        let mut config: Config = driver.parse().map_err(|error: tokio_postgres::Error| {
            // The parser's own words name the key or the place, not the value.
            Error::Settings(std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string))
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(Error::Settings("it names no host".into()));
        }
        // It would be printed with each error, and asked of the name servers.
        if config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(name) if name.contains('@'))) {
            return Err(Error::Settings("its host holds an @: write each @ of the password as %40".into()));
        }
        let mut number = |name: &str| -> Result<Option<u32>, Error> {
            let Some(text) = ours.remove(name) else { return Ok(None) };
            text.parse().map(Some).map_err(|_| Error::Settings(format!("{name} must be a whole number")))
        };
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_keepalives_idle() == Config::new().get_keepalives_idle() {
            config.keepalives_idle(KEEPALIVE_IDLE);
        }
        if config.get_keepalives_interval().is_none() {
            config.keepalives_interval(KEEPALIVE_INTERVAL);
        }
        config.keepalives_retries(number("keepalives_count")?.unwrap_or(KEEPALIVE_COUNT));
        // In milliseconds here as in libpq.
        let user_timeout = number("tcp_user_timeout")?.map(|millis| Duration::from_millis(millis.into()));
        config.tcp_user_timeout(user_timeout.unwrap_or(TCP_USER_TIMEOUT));
        let files =
            Files { root: ours.remove("sslrootcert"), certificate: ours.remove("sslcert"), key: ours.remove("sslkey") };
        let direct = config.get_ssl_negotiation() == SslNegotiation::Direct;
        let tls = Tls::new(ours.remove("sslmode").as_deref(), direct, files)?;
        if tls.mode == Mode::Disable && config.get_channel_binding() == ChannelBinding::Require {
            return Err(Error::Settings("channel_binding=require needs TLS: leave sslmode=disable out".into()));
        }
        let given = config.get_password().map(|bytes| Password::Given(String::from_utf8_lossy(bytes).into_owned()));
        let named = ours.remove("passfile").map(|path| Password::PassFile { path: path.into(), named: true });
        let password = given.or(named).or_else(Password::from_environment);
        let user = match config.get_user() {
            Some(user) => user.to_owned(),
            None => whoami::username().map_err(|_| Error::Settings("it names no user".into()))?,
        };
        config.user(&user);
        Ok(Settings { config, user, password, tls })
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}@{}/{}", self.user(), self.address(), self.database())
    }
}

impl Settings {
    /// The same with a password that stands elsewhere than in the connection string.
    #[must_use]
    pub fn with_password(mut self, password: &str) -> Self {
        self.password = Some(Password::Given(password.to_owned()));
        self
    }

    /// The same with a password that is read from this file at each connection.
    ///
    /// # Errors
    /// [`Error::Settings`] where the file cannot be read now.
    pub fn with_password_file(mut self, path: &Path) -> Result<Self, Error> {
        let password = Password::File(path.to_owned());
        password.read(Login { host: "", port: 0, database: "", user: "" })?;
        self.password = Some(password);
        Ok(self)
    }

    /// Whether the connection string itself holds a password.
    pub fn holds_password(&self) -> bool {
        self.config.get_password().is_some()
    }

    /// The first port, 5432 unless given.
    pub fn port(&self) -> u16 {
        self.config.get_ports().first().copied().unwrap_or(5432)
    }

    /// Hosts and ports for messages.
    pub fn address(&self) -> String {
        self.targets().iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// The role that connects.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database; the role's name unless given, as in libpq.
    pub fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_else(|| self.user())
    }

    /// The places to try, in their order.
    pub(super) fn targets(&self) -> Vec<Target> {
        let (hosts, addresses, ports) = (self.config.get_hosts(), self.config.get_hostaddrs(), self.config.get_ports());
        let count = hosts.len().max(addresses.len());
        (0..count)
            .map(|index| {
                let address = addresses.get(index).copied();
                let named = hosts.get(index).cloned();
                let host = named.unwrap_or_else(|| Host::Tcp(address.map(|ip| ip.to_string()).unwrap_or_default()));
                // One port serves all hosts.
                let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or(5432);
                Target { host, address, port }
            })
            .collect()
    }

    /// How sockets are to be opened.
    pub(super) fn sockets(&self) -> &Config {
        &self.config
    }

    /// How TLS is to be used.
    pub(super) fn tls(&self) -> &Tls {
        &self.tls
    }

    /// The driver's settings for one place: with its password, this name shown in `pg_stat_activity`, these options on
    /// top of those given, and TLS said to be in place already or not there.
    pub(super) fn login(
        &self,
        target: &Target,
        application_name: &str,
        options: &str,
        encrypted: bool,
    ) -> Result<Config, Error> {
        let host = match &target.host {
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(path) if ["/tmp", "/var/run/postgresql"].iter().any(|usual| path == Path::new(usual)) => {
                "localhost".into()
            }
            #[cfg(unix)]
            Host::Unix(path) => path.display().to_string(),
        };
        let login = Login { host: &host, port: target.port, database: self.database(), user: &self.user };
        let password = self.password.as_ref().map(|password| password.read(login)).transpose()?.flatten();
        let mut config = self.config.clone();
        if let Some(password) = password {
            config.password(password);
        }
        config.dbname(self.database()).application_name(application_name);
        let given = config.get_options().map(|options| format!("{options} ")).unwrap_or_default();
        config.options(format!("{given}{options}"));
        config.ssl_mode(if encrypted { SslMode::Require } else { SslMode::Disable });
        config.ssl_negotiation(SslNegotiation::Direct);
        if !encrypted && config.get_channel_binding() == ChannelBinding::Require {
            let reason = "channel_binding=require, but the connection is not encrypted".into();
            return Err(Error::Tls { address: target.to_string(), reason });
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_password_is_no_host() {
        let error = "postgres://u:pa@ss@db/app".parse::<Settings>().expect_err("an @ that is not escaped").to_string();
        assert!(error.contains("%40") && !error.contains("ss@db"), "{error}");
        assert_eq!("postgres://u:pa%40ss@db/app".parse::<Settings>().expect("settings").address(), "db:5432");
    }
}
