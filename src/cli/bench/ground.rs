//! What the benchmark runs on: a throwaway Postgres that flushes every commit, the receiver, and one fresh database a
//! measurement, so that no measurement inherits another one's tables, slot or WAL.

use std::cell::Cell;
use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::receiver::{COUNT, RESET, TIMES};
use super::wait::wait_until;
use crate::cli::stage::{Walhook, client};
use crate::postgres::cluster::{Cluster, Durability, Leash, Leashed, Options, free_port};
use crate::postgres::{Session, connect};

/// walhook's own name for the slot of its default source; the publication's is the same.
pub(super) const SLOT: &str = "walhook_default";
const STARTED_WITHIN: Duration = Duration::from_secs(20);

/// WAL segments that are there before the first measurement, 16 MiB each.
const WAL_SEGMENTS: i32 = 96;

/// Everything that all measurements share. Dropping it ends all of it.
pub(super) struct Ground {
    // In the order in which they are to end.
    receiver: Leash,
    /// On the database `postgres`, which nothing measured uses.
    session: Session,
    cluster: Cluster,
    _directory: TempDir,
    receiver_port: u16,
    client: reqwest::Client,
    databases: Cell<u32>,
}

impl Ground {
    /// Starts Postgres and the receiver.
    pub async fn prepare() -> anyhow::Result<Ground> {
        // As the server comes, but that no checkpoint falls into a measurement: one is made before each.
        let settings = [("max_wal_size", "16GB"), ("checkpoint_timeout", "1h"), ("min_wal_size", "2GB")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let options = Options { durability: Durability::Safe, shared_buffers_mib: 128, settings, ..Options::default() };
        let cluster = Cluster::start(options).await?;
        let session = connect(&cluster.settings("postgres"), "walhook bench").await?;
        recycle_wal(&session).await?;
        let directory = tempfile::Builder::new().prefix("walhook-bench-").tempdir()?;
        let receiver_port = free_port()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench-receiver", "--port"]).arg(receiver_port.to_string());
        let log = File::create(directory.path().join("receiver.log"))?;
        let leashed = Leashed { command, log, signal: "TERM", directory: Some(directory.path()), user: None };
        let receiver = Leash::hold(leashed).context("the receiver could not be started")?;
        let (client, databases) = (client()?, Cell::new(0));
        let mut ground = Ground { receiver, session, cluster, _directory: directory, receiver_port, client, databases };
        ground.wait_for_receiver().await?;
        Ok(ground)
    }

    async fn wait_for_receiver(&mut self) -> anyhow::Result<()> {
        let url = self.receiver_url(COUNT);
        let Ground { receiver, client, .. } = self;
        wait_until("the receiver answers", STARTED_WITHIN, async || {
            anyhow::ensure!(receiver.try_wait().is_none(), "the receiver ended");
            Ok(client.get(&url).send().await.is_ok())
        })
        .await
        .map(drop)
    }

    /// The server.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The receiver's process.
    pub fn receiver_process(&self) -> u32 {
        self.receiver.process_id()
    }

    /// Where a path of the receiver is.
    pub fn receiver_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.receiver_port)
    }

    /// How many requests the receiver got since it was reset.
    pub async fn received(&self) -> anyhow::Result<u64> {
        let answer = self.client.get(self.receiver_url(COUNT)).send().await.context("the receiver does not answer")?;
        answer.text().await?.parse().context("the receiver's count is no number")
    }

    /// The times from commit to arrival that the receiver kept, in milliseconds.
    pub async fn times(&self) -> anyhow::Result<Vec<f64>> {
        let answer = self.client.get(self.receiver_url(TIMES)).send().await.context("the receiver does not answer")?;
        let micros: Vec<f64> = serde_json::from_str(&answer.text().await?).context("the receiver's times")?;
        Ok(micros.into_iter().map(|micros| micros / 1000.0).collect())
    }

    /// Lets the receiver count from 0.
    pub async fn reset_receiver(&self) -> anyhow::Result<()> {
        let answer = self.client.post(self.receiver_url(RESET)).send().await.context("the receiver does not answer")?;
        Ok(answer.error_for_status().map(drop)?)
    }

    /// Waits until somebody streams from a slot: from then on the clock runs. `check` finds out who ended meanwhile.
    pub async fn wait_until_active(
        &self,
        slot: &str,
        mut check: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Instant> {
        let query = "select coalesce(bool_or(active), false) from pg_replication_slots where slot_name = $1";
        let statement = self.session.prepare(query).await?;
        wait_until("the slot is streamed from", STARTED_WITHIN, async || {
            check()?;
            Ok(self.session.query_one(&statement, &[&slot]).await?.get(0))
        })
        .await
    }

    /// Whether commits wait for the disk from now on.
    pub async fn flush_commits(&self, flush: bool) -> anyhow::Result<()> {
        let set = format!("alter system set fsync = {}", if flush { "on" } else { "off" });
        self.session.batch_execute(&set).await?;
        self.session.execute("select pg_reload_conf()", &[]).await?;
        let query = "select current_setting('fsync')::boolean = $1";
        wait_until("the setting is in force", STARTED_WITHIN, async || {
            Ok(self.session.query_one(query, &[&flush]).await?.get(0))
        })
        .await
        .map(drop)
    }

    /// A new database without any table.
    pub async fn database(&self) -> anyhow::Result<Database<'_>> {
        self.databases.set(self.databases.get() + 1);
        let name = format!("bench_{}", self.databases.get());
        self.session.batch_execute(&format!("create database {name}")).await?;
        let session = connect(&self.cluster.settings(&name), "application").await?;
        Ok(Database { ground: self, name, session })
    }
}

/// The database of one measurement.
pub(super) struct Database<'a> {
    ground: &'a Ground,
    pub name: String,
    /// The application's.
    pub session: Session,
}

impl Database<'_> {
    /// Its address.
    pub fn url(&self) -> String {
        self.ground.cluster.url(&self.name)
    }

    /// One more session of the application.
    pub async fn connect(&self) -> anyhow::Result<Session> {
        Ok(connect(&self.ground.cluster.settings(&self.name), "application").await?)
    }

    /// Starts `walhook serve` and lets it watch a table through its public API; events go to a path of the receiver.
    pub async fn watch(&self, schema: &str, table: &str, operation: &str, path: &str) -> anyhow::Result<Walhook> {
        self.watch_for(schema, table, operation, &self.ground.receiver_url(path)).await
    }

    /// The same for any webhook.
    pub async fn watch_for(&self, schema: &str, table: &str, operation: &str, url: &str) -> anyhow::Result<Walhook> {
        let walhook = Walhook::start(&self.url(), &[]).await?;
        walhook.call(&trigger(schema, table, operation, url)).await?;
        Ok(walhook)
    }

    /// Launches `walhook serve` with some roles, on a database that has a trigger.
    pub fn launch(&self, roles: &str) -> anyhow::Result<Walhook> {
        Walhook::launch(&self.url(), &["--only", roles])
    }

    /// Stops walhook and waits until the server noticed.
    pub async fn stop(&self, walhook: Walhook) -> anyhow::Result<()> {
        walhook.end().await?;
        self.wait_until_inactive().await
    }

    async fn wait_until_inactive(&self) -> anyhow::Result<()> {
        let query = "select coalesce(bool_and(not active), true) from pg_replication_slots where database = $1";
        wait_until("the slots are left alone", STARTED_WITHIN, async || {
            Ok(self.ground.session.query_one(query, &[&self.name]).await?.get(0))
        })
        .await
        .map(drop)
    }

    /// Drops the database and its slots, so that the server need not keep their WAL.
    pub async fn remove(self) -> anyhow::Result<()> {
        self.wait_until_inactive().await?;
        let query = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = $1";
        self.ground.session.query(query, &[&self.name]).await?;
        let drop_database = format!("drop database {} with (force)", self.name);
        Ok(self.ground.session.batch_execute(&drop_database).await?)
    }
}

fn trigger(schema: &str, table: &str, operation: &str, webhook: &str) -> Value {
    let mut args = json!({"name": "bench", "table": {"schema": schema, "name": table}, "webhook": webhook});
    args[operation] = json!({"columns": "*"});
    json!({"type": "create_event_trigger", "args": args})
}

/// One of Postgres' own client programs, with this database's address and password. It ends with us.
pub(super) fn program(ground: &Ground, name: &str, database: &str) -> tokio::process::Command {
    let cluster = ground.cluster();
    let mut command = tokio::process::Command::new(cluster.bin_dir().join(name));
    command.args(["-h", "127.0.0.1", "-U", "postgres", "-p"]).arg(cluster.port().to_string());
    command.env("PGPASSWORD", cluster.password()).env("PGDATABASE", database);
    // In a process group of its own, so that a terminal's Ctrl-C reaches us alone.
    command.process_group(0).kill_on_drop(true).stdin(Stdio::null());
    command
}

/// A new server makes each WAL segment anew, which writes it twice; one that has run for a while uses its old ones
/// again. So segments are made first, and the checkpoint before each measurement recycles them.
async fn recycle_wal(session: &Session) -> anyhow::Result<()> {
    let fill = "do $$ begin for n in 1..{} loop \
                perform pg_logical_emit_message(false, 'bench', ''); perform pg_switch_wal(); end loop; end $$";
    session.batch_execute(&fill.replace("{}", &WAL_SEGMENTS.to_string())).await?;
    session.batch_execute("checkpoint").await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_watches_one_operation() {
        let request = trigger("bench", "item", "insert", "http://127.0.0.1:1/hook");
        assert_eq!(request["args"]["insert"], json!({"columns": "*"}));
        assert_eq!(request["args"]["table"]["name"], "item");
        assert!(request["args"].get("update").is_none());
    }
}
