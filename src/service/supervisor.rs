//! A task for each source, so that a dead one holds up no other: it sets the source up, captures it, and tries again
//! after whatever ends that.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{CONNECTION_PAUSE, Error, FIRST_CONNECTION, Roles, migrate};
use crate::capture::{self, State};
use crate::node::Member;
use crate::postgres::{self, Pool};
use crate::queue::{self, FeedSender};

/// After what only somebody's action helps against, or a database that stayed away.
const LONG_PAUSE: Duration = Duration::from_secs(30);
/// For saying in the queue what is wrong; the log says it anyway.
const NOTE_WITHIN: Duration = Duration::from_secs(5);

/// What a source's task works with.
pub(super) struct Supervisor {
    pub(super) options: capture::Options,
    pub(super) roles: Roles,
    pub(super) member: Member,
    pub(super) queue: Pool,
    pub(super) feed: FeedSender,
    pub(super) state: watch::Sender<State>,
    pub(super) figures: watch::Sender<capture::Figures>,
}

/// A source by its number, and what is wrong with it now.
type Report = (usize, Option<Error>);

/// Works on every source until stopped.
///
/// # Errors
/// When none of them can be worked on: what is wrong with each.
pub(super) async fn run(sources: Vec<Supervisor>, stop: CancellationToken) -> Result<(), Error> {
    let names: Vec<String> = sources.iter().map(|source| source.options.source.clone()).collect();
    let mut wrong: Vec<Option<Error>> = names.iter().map(|_| None).collect();
    let (reports, mut reported) = mpsc::channel(names.len());
    let mut tasks = JoinSet::new();
    for (number, source) in sources.into_iter().enumerate() {
        tasks.spawn(source.supervise(number, reports.clone(), stop.clone()));
    }
    loop {
        let (number, report) = tokio::select! {
            // A report first: its task may have ended with it.
            biased;
            Some(report) = reported.recv() => report,
            ended = tasks.join_next() => match ended {
                Some(Ok(())) => continue,
                Some(Err(error)) => return Err(Error::Task { task: "a source", reason: error.to_string() }),
                // They do when stopped.
                None => return Ok(()),
            },
        };
        wrong[number] = report;
        if wrong.iter().all(Option::is_some) {
            let errors = wrong.into_iter().flatten();
            return Err(Error::Sources(names.into_iter().zip(errors).collect()));
        }
        if let Some(error) = &wrong[number] {
            let source = &names[number];
            warn!(source, "{error}; the other sources go on, and this one is tried again in {LONG_PAUSE:?}");
        }
    }
}

impl Supervisor {
    async fn supervise(mut self, number: usize, reports: mpsc::Sender<Report>, stop: CancellationToken) {
        let mut since = Instant::now();
        loop {
            let result = tokio::select! {
                () = stop.cancelled() => return,
                result = self.set_up() => result,
            };
            let result = match result {
                Ok(()) => {
                    // A gap is accepted once.
                    self.options.accept_gap = false;
                    since = Instant::now();
                    drop(reports.send((number, None)).await);
                    self.work(&stop).await
                }
                Err(error) => Err(error),
            };
            let Err(error) = result else { return };
            let reason = error.to_string();
            self.state.send_replace(State::Interrupted(reason.clone()));
            self.note(Some(&reason)).await;
            let pause = if error.is_permanent() || since.elapsed() > FIRST_CONNECTION {
                drop(reports.send((number, Some(error))).await);
                LONG_PAUSE
            } else {
                warn!(source = self.options.source, "{error}; trying again in {CONNECTION_PAUSE:?}");
                CONNECTION_PAUSE
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Checks the source's database, migrates it, and makes publication and slot. A node that does not capture leaves
    /// that to one that does.
    async fn set_up(&self) -> Result<(), Error> {
        let options = &self.options;
        if self.roles.capture {
            let facts = capture::check(options).await?;
            info!(source = options.source, "Postgres {} at {:?}", facts.version, options.database);
        }
        if self.roles.capture || self.roles.api {
            migrate(&options.database).await?;
        }
        if self.roles.capture {
            return Ok(capture::prepare(options).await?);
        }
        let queue = self.queue.get().await.map_err(postgres::Error::from)?;
        let known = queue::find_source(&**queue, &options.source).await?;
        known.map(drop).ok_or_else(|| Error::UnknownSource(options.source.clone()))
    }

    /// Until stopped, or until somebody has to act.
    async fn work(&self, stop: &CancellationToken) -> Result<(), Error> {
        if !self.roles.capture {
            self.state.send_replace(State::StandingBy);
            stop.cancelled().await;
            return Ok(());
        }
        let (feed, state, figures) = (self.feed.clone(), self.state.clone(), self.figures.clone());
        let capturing = capture::run(self.options.clone(), self.member.clone(), feed, state, figures, stop.clone());
        tokio::select! {
            result = capturing => result.map_err(Error::from),
            never = self.follow() => match never {},
        }
    }

    /// Keeps view `walhook.source_status` in step with capture.
    async fn follow(&self) -> Infallible {
        let mut state = self.state.subscribe();
        loop {
            let now = state.borrow_and_update().clone();
            match now {
                State::Interrupted(reason) => self.note(Some(&reason)).await,
                State::Streaming | State::StandingBy => self.note(None).await,
                State::Starting => {}
            }
            if state.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn note(&self, failure: Option<&str>) {
        let name = &self.options.source;
        let write = async {
            let queue = self.queue.get().await.map_err(postgres::Error::from)?;
            match failure {
                Some(reason) => queue::note_failure(&**queue, name, reason).await,
                None => queue::clear_failure(&**queue, name).await,
            }
        };
        match tokio::time::timeout(NOTE_WITHIN, write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(source = name, "walhook.source_status does not say how it is: {error}"),
            Err(_) => debug!(source = name, "walhook.source_status does not say how it is: the queue does not answer"),
        }
    }
}
