//! The real program as a child process.

use std::fs::File;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use walhook::postgres::cluster::{Leash, Leashed, free_port, tail};

use super::clock::{Clock, SharedMemory};
use super::cluster::TestDatabase;

const READY_WITHIN: Duration = Duration::from_secs(20);
const REQUEST_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How to start it.
#[derive(Clone, Debug, Default)]
pub struct Start {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    port: Option<u16>,
    clock: Option<Clock>,
}

impl Start {
    /// `walhook serve` for a test's database, listening on a free port.
    pub fn serve(database: &TestDatabase) -> Start {
        Start::serve_through(database, database.port())
    }

    /// The same by way of another port, such as a proxy's.
    pub fn serve_through(database: &TestDatabase, port: u16) -> Start {
        let url = database.url().replace(&format!(":{}/", database.port()), &format!(":{port}/"));
        let (slot, publication) = (database.slot(), database.publication());
        Start::default().with(&["serve", "--database-url", &url, "--slot", &slot, "--publication", &publication])
    }

    /// More arguments.
    pub fn with(mut self, arguments: &[&str]) -> Start {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// One more variable in the environment, which otherwise holds no `WALHOOK_…` variable.
    pub fn env(mut self, name: &str, value: &str) -> Start {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Listens on this port, such as that of a killed one; else on a free port.
    pub fn on_port(mut self, port: u16) -> Start {
        self.port = Some(port);
        self
    }

    /// Runs by this wall clock and not the machine's.
    pub fn with_clock(mut self, clock: &Clock) -> Start {
        self.clock = Some(clock.clone());
        self
    }

    /// Starts it and waits until it is ready; panics with its log when it is not.
    pub async fn ready(self) -> Walhook {
        let mut walhook = self.spawn();
        walhook.wait_until_ready().await;
        walhook
    }

    /// Starts it only.
    pub fn spawn(self) -> Walhook {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let port = self.port.unwrap_or_else(|| free_port().expect("a free port"));
        let program = env!("CARGO_BIN_EXE_walhook");
        let mut command = self.clock.as_ref().map_or_else(|| Command::new(program), |clock| clock.command(program));
        command.args(self.arguments).arg("--listen").arg(format!("127.0.0.1:{port}"));
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("WALHOOK_")) {
                command.env_remove(name);
            }
        }
        command.env("NO_COLOR", "1").envs(self.environment);
        let log = File::create(directory.path().join("log")).expect("a log");
        let leashed = Leashed { command, log, signal: "KILL", directory: Some(directory.path()), user: None };
        let leash = Leash::hold(leashed).expect("a process");
        let client = reqwest::Client::builder().no_proxy().timeout(REQUEST_WITHIN).build().expect("a client");
        let memory = self.clock.map(|clock| (SharedMemory(leash.process_id()), clock));
        Walhook { leash, port, client, directory, _memory: memory }
    }
}

/// A walhook of its own process. Dropping it kills it; so does the end of the test's process.
pub struct Walhook {
    leash: Leash,
    port: u16,
    client: reqwest::Client,
    directory: TempDir,
    /// Where it has a clock of its own; dropped after the process.
    _memory: Option<(SharedMemory, Clock)>,
}

impl Walhook {
    /// Polls `GET /readyz`; panics with the log when the process ends or the deadline is over.
    pub async fn wait_until_ready(&mut self) {
        let end = Instant::now() + READY_WITHIN;
        loop {
            let answer = self.client.get(self.url("/readyz")).send().await;
            if answer.as_ref().is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            if let Some(status) = self.leash.try_wait() {
                panic!("walhook ended ({status}):\n{}", self.log());
            }
            assert!(Instant::now() < end, "walhook not ready in {READY_WITHIN:?} ({answer:?}):\n{}", self.log());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Sends JSON; gives status and body. A body that is not JSON comes as a JSON string.
    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.answer(self.client.post(self.url(path)).json(body)).await
    }

    /// Sends a body as it is, such as a malformed one.
    pub async fn post_text(&self, path: &str, body: &str) -> (u16, Value) {
        let request = self.client.post(self.url(path)).header("Content-Type", "application/json");
        self.answer(request.body(body.to_owned())).await
    }

    /// Gets a page.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.answer(self.client.get(self.url(path))).await
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        let answer = request.send().await.unwrap_or_else(|error| panic!("{error:?}; walhook's log:\n{}", self.log()));
        let status = answer.status().as_u16();
        let text = answer.text().await.expect("a whole answer");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Where it listens.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its own process id.
    pub fn process_id(&self) -> u32 {
        self.leash.process_id()
    }

    /// What it wrote so far, at most the last 200 lines.
    pub fn log(&self) -> String {
        tail(&self.directory.path().join("log"), 200)
    }

    /// Kills it as a crash would, and waits until it is gone.
    pub async fn kill9(mut self) {
        self.leash.signal("KILL");
        self.wait(Duration::from_secs(10)).await;
    }

    /// Sends it a signal by name, such as `STOP`.
    pub fn signal(&mut self, name: &str) {
        self.leash.signal(name);
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.leash.try_wait()
    }

    /// Asks it to stop, and waits; panics with the log when it does not.
    pub async fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        self.leash.signal("TERM");
        self.wait(deadline).await
    }

    /// Waits until it ends by itself; panics with the log when it does not.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let status = self.leash.wait(deadline).await;
        status.unwrap_or_else(|| panic!("walhook did not end within {deadline:?}:\n{}", self.log()))
    }

    /// Resident memory now and at its highest, in KiB. Linux only.
    pub fn memory_kib(&self) -> Memory {
        let path = format!("/proc/{}/status", self.process_id());
        let status = std::fs::read_to_string(path).expect("the process runs, on Linux");
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a memory field");
            line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
        };
        Memory { now: field("VmRSS:"), highest: field("VmHWM:") }
    }
}

/// Resident memory in KiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub now: u64,
    pub highest: u64,
}
