//! Sessions of the driver: one by one, and the pool.

use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::time::Duration;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::{ClientWrapper, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client, Connection};
use tokio_util::task::AbortOnDropHandle;

use super::replication::TEXT_OPTIONS;
use super::settings::{Settings, Target};
use super::transport::{InPlace, Transport};
use super::{Error, SERVER_KEEPALIVES};

/// From the socket to the first prompt, for each place that a connection string names.
const SESSION_TIMEOUT: Duration = Duration::from_secs(20);
const POOL_TIMEOUT: Duration = Duration::from_secs(10);
const PAYLOADS_WAITING: usize = 1024;

/// A server may be set to answer commits before they are flushed; what we acknowledge must be durable. A process that
/// is frozen in the middle of a transaction (`docker pause`) keeps its sessions, and with them the locks that others
/// wait for: longer than any wait of ours in one. Other timeouts of a role or a database are meant for applications:
/// what takes long here would be ended each time that it is tried again. So is another isolation: transactions here
/// look at what others committed while their locks were waited for.
const SESSION_OPTIONS: &str = "-c timezone=UTC -c datestyle=ISO -c search_path=pg_catalog -c synchronous_commit=on \
                               -c default_transaction_isolation=read\\ committed \
                               -c statement_timeout=0 -c idle_session_timeout=0 \
                               -c idle_in_transaction_session_timeout=120s";
/// One more of those, which is no option of a login as older servers would refuse it.
pub(super) const NO_TRANSACTION_TIMEOUT: &str = "SET transaction_timeout = 0";

/// Whether a server of this version, as it says at the login, has `transaction_timeout`.
pub(super) fn has_transaction_timeout(server_version: &str) -> bool {
    let major = server_version.split(|character: char| !character.is_ascii_digit()).next();
    major.and_then(|major| major.parse().ok()).is_some_and(|major: u32| major >= 17)
}

/// One connection of its own. The connection ends when this is dropped.
pub struct Session {
    client: Client,
    driver: JoinHandle<()>,
}

impl Session {
    /// Waits until the connection ended, by the server or by the network.
    pub async fn closed(&mut self) {
        // A task that was waited for once must not be waited for again. How it ended makes no difference.
        if !self.driver.is_finished() {
            drop((&mut self.driver).await);
        }
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
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
/// What each place answered that the connection string names; ask [`Error::class`] whether to try again.
pub async fn connect(settings: &Settings, application_name: &str) -> Result<Session, Error> {
    let (client, driver) = open(settings, application_name, "", None).await?;
    Ok(Session { client, driver })
}

/// Opens a session as [`connect`] does, with what it is notified of once it has run LISTEN. Payloads that come faster
/// than they are taken are dropped: they are hints.
///
/// # Errors
/// As [`connect`].
pub async fn connect_to_listen(
    settings: &Settings,
    application_name: &str,
) -> Result<(Session, mpsc::Receiver<String>), Error> {
    let (sender, payloads) = mpsc::channel(PAYLOADS_WAITING);
    let (client, driver) = open(settings, application_name, "", Some(sender)).await?;
    Ok((Session { client, driver }, payloads))
}

/// Opens a session for reading tables: values have the same text as in the replication stream, and a table with rows
/// that a policy would hide is an error.
///
/// # Errors
/// As [`connect`].
pub async fn connect_to_read(settings: &Settings, application_name: &str) -> Result<Session, Error> {
    let options = format!("{TEXT_OPTIONS} -c row_security=off");
    let (client, driver) = open(settings, application_name, &options, None).await?;
    Ok(Session { client, driver })
}

async fn open(
    settings: &Settings,
    application_name: &str,
    options: &str,
    payloads: Option<mpsc::Sender<String>>,
) -> Result<(Client, JoinHandle<()>), Error> {
    first_usable(settings, |target| Box::pin(open_at(settings, application_name, options, payloads.clone(), target)))
        .await
}

async fn open_at(
    settings: &Settings,
    application_name: &str,
    options: &str,
    payloads: Option<mpsc::Sender<String>>,
    target: Target,
) -> Result<((Client, JoinHandle<()>), bool), Error> {
    let transport = Transport::open(settings, &target).await?;
    let options = format!("{SESSION_OPTIONS} {options} {SERVER_KEEPALIVES}");
    let config = settings.login(&target, application_name, &options, transport.is_encrypted())?;
    let connected = config.connect_raw(transport, InPlace).await;
    let (client, connection) = connected.map_err(|reason| Error::Connect { address: target.to_string(), reason })?;
    let is_standby = is_standby(&connection);
    let has_timeout = connection.parameter("server_version").is_some_and(has_transaction_timeout);
    // Its error reaches the caller through the client's next call, so it is not reported twice.
    let driver = AbortOnDropHandle::new(match payloads {
        None => tokio::spawn(async move { drop(connection.await) }),
        Some(payloads) => tokio::spawn(listen(connection, payloads)),
    });
    if has_timeout {
        client.batch_execute(NO_TRANSACTION_TIMEOUT).await?;
    }
    Ok(((client, driver.detach()), is_standby))
}

async fn listen(mut connection: Connection<Transport, Transport>, payloads: mpsc::Sender<String>) {
    while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notification(notification) = message {
            drop(payloads.try_send(notification.payload().to_owned()));
        }
    }
}

/// Servers say so at the login, from version 14 on.
fn is_standby(connection: &Connection<Transport, Transport>) -> bool {
    connection.parameter("in_hot_standby") == Some("on")
}

/// A login at one place: what it gave, and whether the server is a standby.
pub(super) type Attempt<'a, T> = Pin<Box<dyn Future<Output = Result<(T, bool), Error>> + Send + 'a>>;

/// Tries the places of a connection string in their order. Where there are several, standbys are passed over: they
/// have no slots that could be read and no tables that could be written.
pub(super) async fn first_usable<'a, T>(
    settings: &Settings,
    attempt: impl Fn(Target) -> Attempt<'a, T>,
) -> Result<T, Error> {
    let targets = settings.targets();
    let several = targets.len() > 1;
    let mut failures = Vec::new();
    for target in targets {
        let address = target.to_string();
        let attempted = tokio::time::timeout(SESSION_TIMEOUT, attempt(target)).await;
        let seconds = SESSION_TIMEOUT.as_secs();
        failures.push(
            match attempted.unwrap_or_else(|_| Err(Error::ConnectTimeout { address: address.clone(), seconds })) {
                Ok((_, true)) if several => Error::Standby { address },
                Ok((usable, _)) => return Ok(usable),
                Err(error) => error,
            },
        );
    }
    match failures.len() {
        1 => Err(failures.remove(0)),
        _ => Err(Error::Everywhere(failures)),
    }
}

/// Whoever holds a row or a table in a transaction that stays open must not take all of a pool's sessions.
const POOL_OPTIONS: &str = "-c lock_timeout=5s";

/// Sessions for short work: the API, and reading the backlog back.
pub type Pool = managed::Pool<Manager>;
/// A session of the pool, which gets it back when this is dropped.
pub type Pooled = managed::Object<Manager>;
/// Why the pool gave no session.
pub type PoolError = managed::PoolError<Error>;

/// Opens the pool's sessions.
#[derive(Debug)]
pub struct Manager {
    settings: Settings,
    application_name: String,
}

impl managed::Manager for Manager {
    type Type = ClientWrapper;
    type Error = Error;

    async fn create(&self) -> Result<ClientWrapper, Error> {
        let (client, driver) = open(&self.settings, &self.application_name, POOL_OPTIONS, None).await?;
        Ok(ClientWrapper::new(client, driver))
    }

    async fn recycle(&self, client: &mut ClientWrapper, _: &Metrics) -> RecycleResult<Error> {
        if client.is_closed() { Err(RecycleError::message("the session was closed")) } else { Ok(()) }
    }
}

/// A pool of at most `size` sessions, opened when first needed.
pub fn pool(settings: &Settings, application_name: &str, size: usize) -> Pool {
    let manager = Manager { settings: settings.clone(), application_name: application_name.to_owned() };
    Pool::builder(manager)
        .max_size(size)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(POOL_TIMEOUT))
        .create_timeout(Some(POOL_TIMEOUT))
        .build()
        .expect("a pool with a runtime and timeouts is complete")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_from_17_on_have_a_timeout_of_transactions() {
        for (version, has) in [("17.2 (Debian 17.2-1)", true), ("18beta1", true), ("16.4", false), ("", false)] {
            assert_eq!(has_transaction_timeout(version), has, "{version}");
        }
    }
}
