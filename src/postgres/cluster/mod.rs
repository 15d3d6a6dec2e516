//! A private throwaway Postgres cluster from the programs on this machine, for `walhook demo`, `walhook bench` and the
//! tests. It is gone when it is dropped, and also when this process is killed.

mod binaries;
mod error;
mod leash;
mod user;

use std::fs::OpenOptions;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use uuid::Uuid;

use super::{Settings, connect};
use binaries::Binaries;
use user::User;

pub use binaries::BIN_VARIABLE;
pub use error::Error;
pub use leash::{Leash, Leashed, ending_signal, tail};

const INITIALISED_WITHIN: Duration = Duration::from_secs(120);
const READY_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(60);
const TRY_EVERY: Duration = Duration::from_millis(20);
const LOG_LINES: usize = 20;
/// Another process may take a free port between our look and the server's start.
const PORT_TRIES: usize = 5;
const PORTS: std::ops::Range<u16> = 10_000..30_000;
const SUPERUSER: &str = "postgres";

/// Whether commits survive a crash of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// As a production server: every commit is flushed to disk.
    Safe,
    /// `fsync` off. Survives a crash of the server, not of the machine.
    Fast,
}

/// How a server is stopped; the names are those of `pg_ctl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Sessions are ended, then everything is written out.
    Fast,
    /// As a crash: the next start recovers from WAL.
    Immediate,
}

/// What kind of cluster to make.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether commits are flushed to disk.
    pub durability: Durability,
    /// `shared_buffers`, in MiB.
    pub shared_buffers_mib: u32,
    /// `wal_sender_timeout`; the server's default unless given.
    pub wal_sender_timeout: Option<Duration>,
    /// More lines of `postgresql.conf`; they win over what is set here.
    pub settings: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        let settings = Vec::new();
        Options { durability: Durability::Fast, shared_buffers_mib: 64, wal_sender_timeout: None, settings }
    }
}

/// A running server with an empty database `postgres`, reached over 127.0.0.1 and a Unix socket with a random password.
/// It keeps nothing of an async runtime, so it may be shared by the runtimes of many tests.
#[derive(Debug)]
pub struct Cluster {
    // Dropped first: the server ends before its directory goes.
    leash: Option<Leash>,
    binaries: Binaries,
    user: Option<User>,
    password: String,
    port: u16,
    directory: TempDir,
}

impl Cluster {
    /// Makes and starts a cluster; returns once it takes connections.
    ///
    /// # Errors
    /// Where Postgres is not installed or does not start; the text says what to do and ends with the server's log.
    pub async fn start(options: Options) -> Result<Cluster, Error> {
        let binaries = Binaries::find()?;
        let directory = tempfile::Builder::new()
            .prefix("walhook-postgres-")
            .tempdir()
            .map_err(Error::io("making a temporary directory"))?;
        let user = User::for_server(directory.path())?;
        let password = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let mut cluster = Cluster { leash: None, binaries, user, password, port: 0, directory };
        cluster.initialise().await?;
        cluster.configure(&options)?;
        for tries_left in (0..PORT_TRIES).rev() {
            cluster.port = free_port().map_err(Error::io("looking for a free port"))?;
            match cluster.resume().await {
                Err(Error::NotReady { log, .. }) if tries_left > 0 && log.contains("could not bind") => {}
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        Ok(cluster)
    }

    /// Starts the server again after [`Cluster::stop`], on the same port; nothing happens while it runs.
    ///
    /// # Errors
    /// [`Error::NotReady`] with the end of the server's log.
    pub async fn resume(&mut self) -> Result<(), Error> {
        if self.leash.as_mut().is_some_and(|leash| leash.try_wait().is_none()) {
            return Ok(());
        }
        let mut command = Command::new(self.binaries.program("postgres"));
        command.arg("-D").arg(self.data_directory()).arg("-p").arg(self.port.to_string());
        self.leash = Some(self.hold(command, "QUIT")?);
        self.wait_until_ready().await
    }

    /// Stops the server and keeps its data, so that [`Cluster::resume`] can start it again.
    ///
    /// # Errors
    /// [`Error::NotStopped`].
    pub async fn stop(&mut self, mode: Mode) -> Result<(), Error> {
        let Some(leash) = &mut self.leash else { return Ok(()) };
        leash.signal(match mode {
            Mode::Fast => "INT",
            Mode::Immediate => "QUIT",
        });
        if leash.wait(STOP_WITHIN).await.is_none() {
            return Err(Error::NotStopped { seconds: STOP_WITHIN.as_secs() });
        }
        self.leash = None;
        Ok(())
    }

    /// Stops the server and starts it again on the same port.
    ///
    /// # Errors
    /// As [`Cluster::stop`] and [`Cluster::resume`].
    pub async fn restart(&mut self, mode: Mode) -> Result<(), Error> {
        self.stop(mode).await?;
        self.resume().await
    }

    /// How to connect to one of its databases as superuser, over TCP.
    pub fn settings(&self, database: &str) -> Settings {
        self.url(database).parse().expect("a URL of our own parts is valid")
    }

    /// The same as a URL. It holds the cluster's random password. The name must need no escaping in a URL.
    pub fn url(&self, database: &str) -> String {
        format!("postgresql://{SUPERUSER}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// A connection string by way of the Unix socket, which is the faster way to stream WAL.
    pub fn socket_url(&self, database: &str) -> String {
        let directory = self.directory.path().display();
        let (port, password) = (self.port, &self.password);
        format!("host='{directory}' port={port} user={SUPERUSER} password={password} dbname={database}")
    }

    /// The superuser's random password, for programs that want it in `PGPASSWORD`.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The port on 127.0.0.1, the same for the cluster's whole life.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where `psql`, `pg_recvlogical`, `pgbench` and the like are.
    pub fn bin_dir(&self) -> &Path {
        &self.binaries.directory
    }

    /// The server's version as it prints it, such as `15.8`.
    pub fn version(&self) -> &str {
        &self.binaries.version
    }

    /// The server's major version.
    pub fn major_version(&self) -> u32 {
        self.binaries.major
    }

    /// Holds the databases.
    pub fn data_directory(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The server's first process; `None` while it is stopped.
    pub fn process_id(&self) -> Option<u32> {
        self.leash.as_ref().map(Leash::process_id)
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log(), lines)
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("server.log")
    }

    async fn initialise(&self) -> Result<(), Error> {
        let password_file = self.directory.path().join("password");
        leash::write_private(&password_file, &self.password).map_err(Error::io("writing the password file"))?;
        if let Some(user) = &self.user {
            user.give(&password_file)?;
        }
        let mut initdb = Command::new(self.binaries.program("initdb"));
        initdb.arg("--pgdata").arg(self.data_directory()).arg("--pwfile").arg(&password_file);
        initdb.args(["--username", SUPERUSER, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"]);
        initdb.args(["--no-sync", "--no-instructions"]);
        let mut leash = self.hold(initdb, "TERM")?;
        let status = leash.wait(INITIALISED_WITHIN).await;
        drop(std::fs::remove_file(&password_file));
        if status.is_some_and(|status| status.success()) {
            return Ok(());
        }
        Err(Error::Program { program: "initdb", output: self.log_tail(LOG_LINES) })
    }

    /// Starts one of the programs as the server's user; what it prints goes to the log.
    fn hold(&self, command: Command, signal: &'static str) -> Result<Leash, Error> {
        let log =
            OpenOptions::new().create(true).append(true).open(self.log()).map_err(Error::io("opening the log"))?;
        let user = self.user.as_ref().map(User::ids);
        let leashed = Leashed { command, log, signal, directory: Some(self.directory.path()), user };
        Leash::hold(leashed).map_err(Error::io("starting a shell"))
    }

    /// In the file and not on the command line, so that `alter system` still wins in a test.
    fn configure(&self, options: &Options) -> Result<(), Error> {
        let on = |yes: bool| if yes { "on" } else { "off" }.to_owned();
        let safe = options.durability == Durability::Safe;
        let mut settings: Vec<(&str, String)> = vec![
            ("listen_addresses", "127.0.0.1".into()),
            ("unix_socket_directories", self.directory.path().display().to_string()),
            ("wal_level", "logical".into()),
            ("max_replication_slots", "64".into()),
            ("max_wal_senders", "64".into()),
            ("max_connections", "200".into()),
            ("shared_buffers", format!("{}MB", options.shared_buffers_mib)),
            ("fsync", on(safe)),
            ("full_page_writes", on(safe)),
            ("synchronous_commit", on(true)),
            ("log_line_prefix", "%m [%p] ".into()),
        ];
        if let Some(timeout) = options.wal_sender_timeout {
            settings.push(("wal_sender_timeout", format!("{}ms", timeout.as_millis())));
        }
        settings.extend(options.settings.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let lines: String =
            settings.iter().map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''"))).collect();
        let path = self.data_directory().join("postgresql.conf");
        let before = std::fs::read_to_string(&path).map_err(Error::io("reading postgresql.conf"))?;
        std::fs::write(&path, before + "\n" + &lines).map_err(Error::io("writing postgresql.conf"))
    }

    async fn wait_until_ready(&mut self) -> Result<(), Error> {
        let (settings, end) = (self.settings("postgres"), Instant::now() + READY_WITHIN);
        loop {
            let reason = match Box::pin(connect(&settings, "walhook cluster")).await {
                Ok(_) => return Ok(()),
                Err(error) => error.to_string(),
            };
            let ended = self.leash.as_mut().is_none_or(|leash| leash.try_wait().is_some());
            if ended || Instant::now() >= end {
                let reason = if ended { "it ended".into() } else { reason };
                return Err(Error::NotReady { seconds: READY_WITHIN.as_secs(), reason, log: self.log_tail(LOG_LINES) });
            }
            tokio::time::sleep(TRY_EVERY).await;
        }
    }
}

/// A port on 127.0.0.1 that nobody listens on now, and that this gives only once. It is below those that systems take
/// for outgoing connections (from 32768 on Linux), so that none of these has it when somebody wants to listen there, or
/// to listen there again.
///
/// # Errors
/// Why nobody could listen on the last of many.
pub fn free_port() -> std::io::Result<u16> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Processes begin at different ones.
    let first = std::process::id().wrapping_mul(97);
    let mut tries_left = PORTS.len();
    loop {
        let place = first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % PORTS.len() as u32;
        let port = PORTS.start + place as u16;
        tries_left -= 1;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Err(_) if tries_left > 0 => {}
            listener => return listener.map(|_| port),
        }
    }
}

#[cfg(test)]
mod tests;
