//! One Postgres for all tests of a program, one database for each test.

use tokio::sync::OnceCell;
use uuid::Uuid;
use walhook::postgres::cluster::{Cluster, Options};
use walhook::postgres::{Session, Settings, connect};

use super::scene::DEADLINE;
use super::wait::eventually;

/// Holds nothing of a runtime, since each test has its own. A static is never dropped: when the program ends, the
/// cluster's leash sees the pipe close, ends the server and removes its directory. So nothing is left to sweep up.
static SHARED: OnceCell<Cluster> = OnceCell::const_new();

/// The cluster that tests share. A test that stops or restarts Postgres starts a [`Cluster`] of its own.
pub async fn shared() -> &'static Cluster {
    // A short timeout, so that a killed walhook's slot is soon free again.
    let wal_sender_timeout = Some(std::time::Duration::from_secs(5));
    let options = Options { wal_sender_timeout, ..Options::default() };
    SHARED.get_or_init(|| async { Cluster::start(options).await.unwrap_or_else(|error| panic!("{error}")) }).await
}

/// The major version of the shared cluster's Postgres.
pub async fn version() -> i32 {
    let session = connect(&shared().await.settings("postgres"), "test").await.expect("a session");
    let row = session.query_one("select current_setting('server_version_num')::int / 10000", &[]).await;
    row.expect("a version").get(0)
}

/// An empty database with names for a slot and a publication of its own. Dropping it drops them all.
pub struct TestDatabase {
    name: String,
    url: String,
    socket_url: String,
    admin: Settings,
}

impl TestDatabase {
    /// A database in the shared cluster.
    pub async fn create() -> TestDatabase {
        TestDatabase::create_in(shared().await).await
    }

    /// A database in the shared cluster, made with these options of CREATE DATABASE.
    pub async fn create_with(options: &str) -> TestDatabase {
        TestDatabase::create_in_with(shared().await, options).await
    }

    /// A database in a test's own cluster.
    pub async fn create_in(cluster: &Cluster) -> TestDatabase {
        TestDatabase::create_in_with(cluster, "").await
    }

    async fn create_in_with(cluster: &Cluster, options: &str) -> TestDatabase {
        let name = format!("test_{}", &Uuid::new_v4().simple().to_string()[..12]);
        let admin = cluster.settings("postgres");
        let session = connect(&admin, "test").await.expect("a session to create the database");
        session.batch_execute(&format!("create database {name} {options}")).await.expect("a database");
        TestDatabase { url: cluster.url(&name), socket_url: cluster.socket_url(&name), name, admin }
    }

    /// The database's name, which no other test has.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// For `--database-url`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where its server listens on loopback.
    pub fn port(&self) -> u16 {
        self.settings().port()
    }

    /// By the Unix socket.
    pub fn socket_url(&self) -> &str {
        &self.socket_url
    }

    /// How to connect.
    pub fn settings(&self) -> Settings {
        self.url.parse().expect("the cluster's own URL")
    }

    /// A name for a slot that no other test uses; slots belong to the whole cluster.
    pub fn slot(&self) -> String {
        format!("walhook_{}", self.name)
    }

    /// A name for a publication.
    pub fn publication(&self) -> String {
        format!("walhook_{}", self.name)
    }

    /// A session as superuser. Its `search_path` is `pg_catalog`: name the schema.
    pub async fn connect(&self) -> Session {
        connect(&self.settings(), "test").await.expect("a session to the test's database")
    }

    /// Drops the slot though walhook reads it, and would again in a moment.
    pub async fn drop_slot_in_use(&self) {
        let (session, slot) = (self.connect().await, self.slot());
        let drop_it = format!(
            "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where slot_name = '{slot}';
             select pg_drop_replication_slot('{slot}')"
        );
        eventually("the slot to be let go", DEADLINE, || async { session.batch_execute(&drop_it).await }).await;
    }

    /// Runs statements in a session of their own.
    pub async fn execute(&self, sql: &str) {
        self.connect().await.batch_execute(sql).await.unwrap_or_else(|error| panic!("{error:?} in {sql}"));
    }
}

impl Drop for TestDatabase {
    /// In a thread with a runtime of its own: the test's may be ending, and a drop cannot wait in it.
    fn drop(&mut self) {
        let (admin, name) = (self.admin.clone(), self.name.clone());
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(remove(&admin, &name));
        };
        drop(std::thread::spawn(work).join());
    }
}

/// Slots hold a database in place, and their readers the slots; a server that is stopped keeps nothing anyway.
async fn remove(admin: &Settings, name: &str) {
    let Ok(session) = connect(admin, "test").await else { return };
    let end = "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where database = $1 and active";
    drop(session.query(end, &[&name]).await);
    let release = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = $1";
    drop(session.query(release, &[&name]).await);
    drop(session.batch_execute(&format!("drop database if exists {name} with (force)")).await);
}
