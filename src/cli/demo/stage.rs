//! What the demo runs on: a private Postgres and walhook itself, the same program as a process of its own.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use tempfile::TempDir;

use crate::postgres::cluster::{Cluster, Leash, Leashed, Options, free_port, tail};
use crate::postgres::{Session, connect};

const DATABASE: &str = "shop";
const READY_WITHIN: Duration = Duration::from_secs(20);
const STOPPED_WITHIN: Duration = Duration::from_secs(10);
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOG_LINES: usize = 15;

/// Everything that runs for the demo. Dropping it ends all of it.
pub(super) struct Stage {
    // In the order in which they are to end.
    walhook: Leash,
    cluster: Cluster,
    directory: TempDir,
    port: u16,
    client: reqwest::Client,
    ready_after: Duration,
}

impl Stage {
    /// Starts Postgres, makes the database, starts walhook and waits until it is ready.
    pub async fn set() -> anyhow::Result<Stage> {
        let cluster = Cluster::start(Options::default()).await?;
        let session = connect(&cluster.settings("postgres"), "walhook demo").await?;
        session.batch_execute(&format!("create database {DATABASE}")).await?;
        let directory = tempfile::Builder::new().prefix("walhook-demo-").tempdir()?;
        let (port, started) = (free_port()?, Instant::now());
        let log = File::create(directory.path().join("walhook.log"))?;
        let command = serve(std::env::current_exe()?, &cluster.url(DATABASE), port);
        let leashed = Leashed { command, log, signal: "TERM", directory: Some(directory.path()), user: None };
        let walhook = Leash::hold(leashed).context("walhook itself could not be started")?;
        // A proxy from the environment has nothing to do with this machine's own addresses.
        let client = reqwest::Client::builder().no_proxy().timeout(REQUEST_WITHIN).build()?;
        let mut stage = Stage { walhook, cluster, directory, port, client, ready_after: Duration::ZERO };
        stage.wait_until_ready().await?;
        stage.ready_after = started.elapsed();
        Ok(stage)
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let (url, end) = (format!("{}/readyz", self.api_url()), Instant::now() + READY_WITHIN);
        loop {
            if self.client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if let Some(status) = self.walhook.try_wait() {
                anyhow::bail!("walhook serve ended ({status}); its log ends with:\n{}", self.log_tail());
            }
            if Instant::now() >= end {
                let seconds = READY_WITHIN.as_secs();
                anyhow::bail!(
                    "walhook serve was not ready within {seconds} s; its log ends with:\n{}",
                    self.log_tail()
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A plain connection to the shop's database, as any program would make it.
    pub async fn connect(&self) -> anyhow::Result<Session> {
        Ok(connect(&self.cluster.settings(DATABASE), "shop").await?)
    }

    /// Sends a `create_event_trigger` call.
    pub async fn create_trigger(&self, request: &Value) -> anyhow::Result<()> {
        let answer = self.client.post(format!("{}/v1/query", self.api_url())).json(request).send().await;
        let answer =
            answer.with_context(|| format!("POST /v1/query; walhook's log ends with:\n{}", self.log_tail()))?;
        let status = answer.status();
        let body = answer.text().await.context("the answer of POST /v1/query broke off")?;
        anyhow::ensure!(status.is_success(), "POST /v1/query {request} was answered {status}: {body}");
        Ok(())
    }

    /// Stops walhook as an operator would, which is a part of the check, then Postgres.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.walhook.signal("TERM");
        match self.walhook.wait(STOPPED_WITHIN).await {
            Some(status) if status.success() => Ok(()),
            Some(status) => anyhow::bail!("walhook did not stop cleanly ({status}); its log:\n{}", self.log_tail()),
            None => anyhow::bail!(
                "walhook did not stop within {} s of SIGTERM; its log ends with:\n{}",
                STOPPED_WITHIN.as_secs(),
                self.log_tail()
            ),
        }
    }

    /// The last lines of walhook's log.
    pub fn log_tail(&self) -> String {
        tail(&self.directory.path().join("walhook.log"), LOG_LINES)
    }

    /// Where walhook's API listens.
    pub fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
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

/// The command line of walhook itself. The URL goes through the environment, which other users cannot read; settings
/// that are meant for the user's own walhook must not reach this one.
fn serve(program: PathBuf, database_url: &str, port: u16) -> Command {
    let mut command = Command::new(program);
    command.args(["serve", "--listen"]).arg(format!("127.0.0.1:{port}"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("WALHOOK_")) {
            command.env_remove(name);
        }
    }
    command.env("WALHOOK_DATABASE_URL", database_url);
    command
}
