//! What `walhook demo` and `walhook bench` share: walhook itself as a process of its own, and the signals that end
//! them.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use tempfile::TempDir;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::postgres::cluster::{Leash, Leashed, free_port, tail};

const READY_WITHIN: Duration = Duration::from_secs(20);
const STOPPED_WITHIN: Duration = Duration::from_secs(10);
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOG_LINES: usize = 15;

/// A running `walhook serve`, the same program as this. Dropping it ends it.
pub(super) struct Walhook {
    // In the order in which they are to end.
    leash: Leash,
    directory: TempDir,
    port: u16,
    client: reqwest::Client,
}

impl Walhook {
    /// Starts `walhook serve` with further arguments, and does not wait for anything.
    pub fn launch(database_url: &str, arguments: &[&str]) -> anyhow::Result<Walhook> {
        let directory = tempfile::Builder::new().prefix("walhook-stage-").tempdir()?;
        let port = free_port()?;
        let log = File::create(directory.path().join("walhook.log"))?;
        let mut command = serve(std::env::current_exe()?, database_url, port);
        command.args(arguments);
        let leashed = Leashed { command, log, signal: "TERM", directory: Some(directory.path()), user: None };
        let leash = Leash::hold(leashed).context("walhook itself could not be started")?;
        Ok(Walhook { leash, directory, port, client: client()? })
    }

    /// Starts `walhook serve` with further arguments and waits until it says that it is ready.
    pub async fn start(database_url: &str, arguments: &[&str]) -> anyhow::Result<Walhook> {
        let mut walhook = Walhook::launch(database_url, arguments)?;
        walhook.wait_until_ready().await?;
        Ok(walhook)
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let (url, end) = (format!("{}/readyz", self.api_url()), Instant::now() + READY_WITHIN);
        loop {
            if self.client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            self.check()?;
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

    /// An error if it has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.leash.try_wait() {
            None => Ok(()),
            Some(status) => anyhow::bail!("walhook serve ended ({status}); its log ends with:\n{}", self.log_tail()),
        }
    }

    /// Sends a call of the API, such as `create_event_trigger`.
    pub async fn call(&self, request: &Value) -> anyhow::Result<()> {
        let answer = self.client.post(format!("{}/v1/query", self.api_url())).json(request).send().await;
        let answer =
            answer.with_context(|| format!("POST /v1/query; walhook's log ends with:\n{}", self.log_tail()))?;
        let status = answer.status();
        let body = answer.text().await.context("the answer of POST /v1/query broke off")?;
        anyhow::ensure!(status.is_success(), "POST /v1/query {request} was answered {status}: {body}");
        Ok(())
    }

    /// Stops it as an operator would; not stopping cleanly is an error.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.leash.signal("TERM");
        match self.leash.wait(STOPPED_WITHIN).await {
            Some(status) if status.success() => Ok(()),
            Some(status) => anyhow::bail!("walhook did not stop cleanly ({status}); its log:\n{}", self.log_tail()),
            None => anyhow::bail!(
                "walhook did not stop within {} s of SIGTERM; its log ends with:\n{}",
                STOPPED_WITHIN.as_secs(),
                self.log_tail()
            ),
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        tail(&self.directory.path().join("walhook.log"), LOG_LINES)
    }

    /// Where its API listens.
    pub fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The process itself.
    pub fn process_id(&self) -> u32 {
        self.leash.process_id()
    }
}

/// For requests to this machine: a proxy from the environment has nothing to do with its own addresses.
pub(super) fn client() -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().timeout(REQUEST_WITHIN).build()?)
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

/// Ctrl-C and SIGTERM. Listened to from the start, so that neither ends us without a clean-up.
pub(super) struct StopSignal {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignal {
    /// From now on neither signal ends the process by itself.
    pub fn listen() -> anyhow::Result<StopSignal> {
        let listen = |kind| signal(kind).context("signals cannot be listened to");
        Ok(StopSignal { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Waits for one of them.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
