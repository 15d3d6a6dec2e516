//! What the demo runs on: a private Postgres and walhook itself, the same program as a process of its own.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::stage::Walhook;
use crate::postgres::cluster::{Cluster, Options};
use crate::postgres::{Session, connect};

const DATABASE: &str = "shop";

/// Everything that runs for the demo. Dropping it ends all of it.
pub(super) struct Stage {
    // In the order in which they are to end.
    walhook: Walhook,
    cluster: Cluster,
    ready_after: Duration,
}

impl Stage {
    /// Starts Postgres, makes the database, starts walhook and waits until it is ready.
    pub async fn set() -> anyhow::Result<Stage> {
        let cluster = Cluster::start(Options::default()).await?;
        let session = connect(&cluster.settings("postgres"), "walhook demo").await?;
        session.batch_execute(&format!("create database {DATABASE}")).await?;
        let started = Instant::now();
        let walhook = Walhook::start(&cluster.url(DATABASE), &[]).await?;
        Ok(Stage { walhook, cluster, ready_after: started.elapsed() })
    }

    /// A plain connection to the shop's database, as any program would make it.
    pub async fn connect(&self) -> anyhow::Result<Session> {
        Ok(connect(&self.cluster.settings(DATABASE), "shop").await?)
    }

    /// Sends a `create_event_trigger` call.
    pub async fn create_trigger(&self, request: &Value) -> anyhow::Result<()> {
        self.walhook.call(request).await
    }

    /// Stops walhook as an operator would, which is a part of the check, then Postgres.
    pub async fn end(self) -> anyhow::Result<()> {
        let Stage { walhook, cluster, .. } = self;
        let ended = walhook.end().await;
        drop(cluster);
        ended
    }

    /// The last lines of walhook's log.
    pub fn log_tail(&self) -> String {
        self.walhook.log_tail()
    }

    /// Where walhook's API listens.
    pub fn api_url(&self) -> String {
        self.walhook.api_url()
    }

    /// For `psql`.
    pub fn database_url(&self) -> String {
        self.cluster.url(DATABASE)
    }

    /// `psql` beside the server's programs, by its name alone where it is on the path.
    pub fn psql(&self) -> String {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_on_path = std::env::split_paths(&path).any(|directory| directory.join("psql").is_file());
        if is_on_path { "psql".into() } else { self.cluster.bin_dir().join("psql").display().to_string() }
    }

    /// Server version, its address, and how long walhook took until it was ready.
    pub fn facts(&self) -> (&str, String, Duration) {
        (self.cluster.version(), format!("127.0.0.1:{}", self.cluster.port()), self.ready_after)
    }
}
