//! The composition root: builds every part, owns every task, and shuts them down together.

mod config;
mod file;
mod readiness;
mod settings;
mod source;
mod supervisor;

pub use config::{Config, LogFormat, Problems, Roles};
pub use settings::{RawSettings, RawSource};
pub use source::Source;

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::{self, ApiState, Readiness, Secrets, Watched, WatchedSource};
use crate::capture;
use crate::delivery::{self, Command, Handle};
use crate::model::Environment;
use crate::node::{self, Member, Membership};
use crate::postgres::{self, Class, NotReady, Pool, Settings};
use crate::queue::{self, FeedReceiver, Heads};
use crate::triggers::{Catalogue, SourceInfo};

use self::readiness::follow_sources;
use self::supervisor::Supervisor;

const POOL_SIZE: usize = 4;
/// How long an unreachable database is waited for at the start: long enough for a server that starts beside us.
const FIRST_CONNECTION: Duration = Duration::from_secs(60);
const CONNECTION_PAUSE: Duration = Duration::from_secs(2);
/// Beside the grace time of requests, for recording them and for closing connections.
const CLOSING: Duration = Duration::from_secs(10);
const FAREWELL: Duration = Duration::from_secs(3);

/// Why the service stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {reason}; free the address or choose another with --listen")]
    Listen {
        /// Address and port.
        address: std::net::SocketAddr,
        /// The system's words.
        reason: std::io::Error,
    },
    /// Somebody has to act on these databases first.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    NotReady(Vec<NotReady>),
    /// The source cannot be captured.
    #[error(transparent)]
    Capture(#[from] capture::Error),
    /// Webhooks cannot be sent.
    #[error(transparent)]
    Delivery(#[from] delivery::Error),
    /// The database cannot be set up.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    /// The queue cannot be read.
    #[error(transparent)]
    Queue(#[from] queue::Error),
    /// This node does not capture, and no other has registered the source yet.
    #[error("source {0} was never captured: start a node with the role capture first (--only)")]
    UnknownSource(String),
    /// No source can be worked on: what is wrong with each, by name.
    #[error("{}", describe(.0))]
    Sources(Vec<(String, Error)>),
    /// A task ended in a way that is a bug.
    #[error("{task} ended unexpectedly: {reason}")]
    Task {
        /// Which one.
        task: &'static str,
        /// How.
        reason: String,
    },
}

impl Error {
    /// Whether only somebody's action helps, so that a supervisor need not start walhook again and again.
    pub fn is_permanent(&self) -> bool {
        match self {
            Error::Capture(error) => error.class() == Class::Operator,
            Error::Postgres(error) => error.class() == Class::Operator,
            Error::Queue(error) => error.class() == Class::Operator,
            Error::Sources(errors) => errors.iter().all(|(_, error)| error.is_permanent()),
            Error::NotReady(_) | Error::Listen { .. } | Error::Delivery(_) | Error::UnknownSource(_) => true,
            Error::Task { .. } => false,
        }
    }
}

fn describe(errors: &[(String, Error)]) -> String {
    match errors {
        [(_, only)] => only.to_string(),
        several => several.iter().map(|(name, error)| format!("source {name}: {error}")).collect::<Vec<_>>().join("\n"),
    }
}

/// Runs until `stop` is cancelled or a part cannot go on. Parts that stop get the grace time of the settings.
///
/// # Errors
/// Why it cannot start or go on; [`Error::is_permanent`] tells whether to try again.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), Error> {
    let listener = match config.roles.api {
        true => Some(listen(&config).await?),
        false => None,
    };
    if !set_up_queue(&config, &stop).await? {
        return Ok(());
    }
    let queue = postgres::pool(&config.queue, "walhook", POOL_SIZE);
    // Its calls wait for locks and may read much; what delivery reads does not wait for them.
    let api = postgres::pool(&config.queue, "walhook api", POOL_SIZE);
    let ended = CancellationToken::new();
    let (timeout, delivers) = (config.node_timeout, config.roles.delivery);
    let membership = Membership::new(config.queue.clone(), timeout, delivers, stop.clone(), ended.clone());
    let member = membership.member();
    let works = config.roles.capture || delivers;
    let membership = works.then(|| tokio::spawn(Box::pin(membership.run())));
    let mut tasks = Tasks::new(stop);
    let (feed, handed_over) = queue::feed();
    let delivery = tasks.start_delivery(&config, queue.clone(), handed_over, member.clone());
    if config.roles.capture {
        tasks.start_announcer(queue.clone(), member.clone(), feed.heads());
    }
    tasks.start_retention(&config);
    let mut catalogues = Vec::new();
    let mut states = Vec::new();
    let mut supervisors = Vec::new();
    let mut watched = Vec::new();
    for source in &config.sources {
        let pool = match config.separate_queue {
            true => postgres::pool(&source.database, "walhook api", POOL_SIZE),
            false => api.clone(),
        };
        let info = SourceInfo { name: source.name.clone(), publication: source.publication.clone() };
        let catalogue = Catalogue::new(pool, api.clone(), info, config.replica_identity, delivery.clone());
        let (state, receiver) = watch::channel(capture::State::Starting);
        let (figures, captured) = watch::channel(capture::Figures::default());
        if config.roles.capture {
            tasks.start_upkeep(catalogue.clone(), receiver.clone());
        }
        let (options, queue, feed) = (config.capture_options(source), queue.clone(), feed.clone());
        let member = member.clone();
        watched.push(WatchedSource { name: source.name.clone(), state: receiver.clone(), figures: captured });
        supervisors.push(Supervisor { options, roles: config.roles, member, queue, feed, state, figures });
        catalogues.push(catalogue);
        states.push(receiver);
    }
    tasks.start_supervisors(supervisors);
    if let Some(listener) = listener {
        let lease = works.then(|| member.lease.clone());
        let watched = Watched { sources: watched, delivery, lease, queue: Some(queue) };
        tasks.start_api(&config, catalogues, states, watched, listener);
    }
    let result = tasks.finish(config.grace).await;
    // Only now: until here others must not take this node for dead.
    ended.cancel();
    if let Some(membership) = membership {
        // Where the queue's server is silent, others find out by themselves.
        drop(tokio::time::timeout(FAREWELL, membership).await);
    }
    result
}

/// The catalogue of one source for a command that works on the databases itself, beside the nodes that serve. Without
/// a name it is the only source of the settings.
///
/// # Errors
/// [`Error::UnknownSource`] where no node ever captured the source; otherwise what Postgres said.
pub async fn open_catalogue(config: &Config, name: Option<&str>) -> Result<Catalogue, Error> {
    let unknown = |name: &str| Error::UnknownSource(name.to_owned());
    let source = match (config.sources.as_slice(), name) {
        // Its name is the flag's, or the default.
        ([only], _) => only,
        (several, Some(name)) => several.iter().find(|source| source.name == name).ok_or_else(|| unknown(name))?,
        (_, None) => return Err(unknown("(name one of several with --source)")),
    };
    let name = name.unwrap_or(&source.name);
    let session = postgres::connect(&config.queue, "walhook command").await?;
    let found = queue::find_source(&*session, name).await?;
    let publication = found.ok_or_else(|| unknown(name))?.publication;
    let pool = |database| postgres::pool(database, "walhook command", 1);
    let info = SourceInfo { name: name.to_owned(), publication };
    Ok(Catalogue::new(pool(&source.database), pool(&config.queue), info, config.replica_identity, None))
}

async fn listen(config: &Config) -> Result<TcpListener, Error> {
    let address = config.listen;
    TcpListener::bind(address).await.map_err(|reason| Error::Listen { address, reason })
}

/// Checks the queue's database and migrates it: without it nothing goes. False when stopped meanwhile.
async fn set_up_queue(config: &Config, stop: &CancellationToken) -> Result<bool, Error> {
    let started = Instant::now();
    loop {
        let result = tokio::select! {
            () = stop.cancelled() => return Ok(false),
            result = set_up_queue_once(config) => result,
        };
        let Err(error) = result else { return Ok(true) };
        if error.is_permanent() || started.elapsed() > FIRST_CONNECTION {
            return Err(error);
        }
        warn!("{error}; trying again in {CONNECTION_PAUSE:?}");
        tokio::select! {
            () = stop.cancelled() => return Ok(false),
            () = tokio::time::sleep(CONNECTION_PAUSE) => {}
        }
    }
}

async fn set_up_queue_once(config: &Config) -> Result<(), Error> {
    let checked = match config.separate_queue {
        true => queue::check(&config.queue).await.map(drop).map_err(Error::from),
        // What captures needs more of the same database, and is told all of it at once.
        false => Ok(()),
    };
    let unready = match checked {
        Err(Error::Queue(queue::Error::NotReady(problems))) => vec![problems],
        checked => {
            checked?;
            Vec::new()
        }
    };
    if !(unready.is_empty() && config.separate_queue) {
        check_sources(config, unready).await?;
    }
    migrate(&config.queue).await
}

/// Whoever has to act is to hear at once of all that is missing.
async fn check_sources(config: &Config, mut unready: Vec<NotReady>) -> Result<(), Error> {
    for source in config.sources.iter().filter(|_| config.roles.capture) {
        match capture::check(&config.capture_options(source)).await {
            Err(capture::Error::NotReady(problems)) => unready.push(problems),
            Err(error) if unready.is_empty() => return Err(error.into()),
            Ok(_) | Err(_) => {}
        }
    }
    if unready.is_empty() { Ok(()) } else { Err(Error::NotReady(unready)) }
}

async fn migrate(database: &Settings) -> Result<(), Error> {
    let mut session = postgres::connect(database, "walhook setup").await?;
    let applied = postgres::migrate(&mut session).await?;
    if applied > 0 {
        info!("applied {applied} migrations to schema walhook of {database:?}");
    }
    Ok(())
}

/// The parts that run. The first one that ends, ends all.
struct Tasks {
    stop: CancellationToken,
    running: JoinSet<(&'static str, Result<(), Error>)>,
}

impl Tasks {
    fn new(stop: CancellationToken) -> Self {
        Tasks { stop, running: JoinSet::new() }
    }

    fn start_supervisors(&mut self, supervisors: Vec<Supervisor>) {
        let stop = self.stop.clone();
        self.running.spawn(async move { ("capture", Box::pin(supervisor::run(supervisors, stop)).await) });
    }

    fn start_delivery(&mut self, config: &Config, pool: Pool, feed: FeedReceiver, member: Member) -> Option<Handle> {
        if !config.roles.delivery {
            return None;
        }
        let (handle, commands): (Handle, mpsc::Receiver<Command>) = delivery::handle();
        let parts = delivery::Parts {
            database: config.queue.clone(),
            pool,
            environment: Environment::process(),
            feed: config.roles.capture.then_some(feed),
            handle: handle.clone(),
            commands,
            grace: config.grace,
            longest_retry_after: config.max_retry_after,
            member,
            max_in_flight: config.max_in_flight,
        };
        let stop = self.stop.clone();
        self.running
            .spawn(async move { ("delivery", Box::pin(delivery::run(parts, stop)).await.map_err(Error::from)) });
        Some(handle)
    }

    fn start_announcer(&mut self, queue: Pool, member: Member, heads: watch::Receiver<Heads>) {
        let stop = self.stop.clone();
        self.running.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => ("announcer", Ok(())),
                never = node::announce(queue, member, heads) => match never {},
            }
        });
    }

    /// A node that only answers the API leaves it to those that fill and empty the log.
    fn start_retention(&mut self, config: &Config) {
        if !(config.roles.capture || config.roles.delivery) {
            return;
        }
        let (database, retention, stop) = (config.queue.clone(), config.retention, self.stop.clone());
        self.running.spawn(async move {
            queue::look_after(database, retention, stop).await;
            ("retention", Ok(()))
        });
    }

    fn start_upkeep(&mut self, catalogue: Catalogue, captured: watch::Receiver<capture::State>) {
        let stop = self.stop.clone();
        self.running.spawn(async move {
            catalogue.look_after(captured, stop).await;
            ("upkeep", Ok(()))
        });
    }

    fn start_api(
        &mut self,
        config: &Config,
        catalogues: Vec<Catalogue>,
        states: Vec<watch::Receiver<capture::State>>,
        watched: Watched,
        listener: TcpListener,
    ) {
        let (ready, readiness) = watch::channel(Readiness { migrated: true, streaming: false, serving: true });
        let secrets = Secrets { admin: config.admin_secret.clone(), metrics: config.metrics_secret.clone() };
        let state = ApiState::new(catalogues, secrets, readiness, watched);
        info!("API on http://{}", config.listen);
        let stop = self.stop.clone();
        self.running.spawn(async move {
            let follow = follow_sources(states, ready);
            let serve = api::serve(listener, state, stop);
            tokio::select! {
                () = serve => ("API", Ok(())),
                never = follow => match never {},
            }
        });
    }

    /// Waits for the stop or the first end, then for everything else to end in its time.
    async fn finish(mut self, grace: std::time::Duration) -> Result<(), Error> {
        let mut result = Ok(());
        let stop = self.stop.clone();
        tokio::select! {
            // First, as parts may have ended already because of it.
            biased;
            () = stop.cancelled() => info!("stopping; requests under way have {grace:?}"),
            Some(ended) = self.running.join_next() => {
                result = ended_early(ended, &stop);
                self.stop.cancel();
            }
        }
        let rest = async {
            while let Some(ended) = self.running.join_next().await {
                let ended = ended_result(ended);
                if result.is_ok() {
                    result = ended;
                }
            }
        };
        if tokio::time::timeout(grace + CLOSING, rest).await.is_err() {
            warn!("not everything ended in time; what was under way will be sent again after the next start");
        }
        result
    }
}

type Ended = Result<(&'static str, Result<(), Error>), tokio::task::JoinError>;

fn ended_result(ended: Ended) -> Result<(), Error> {
    match ended {
        Ok((_, result)) => result,
        Err(error) => Err(Error::Task { task: "a task", reason: error.to_string() }),
    }
}

/// A part that ends without an error before the stop is a bug as well.
fn ended_early(ended: Ended, stop: &CancellationToken) -> Result<(), Error> {
    match ended {
        Ok((task, Ok(()))) if !stop.is_cancelled() => Err(Error::Task { task, reason: "without an error".into() }),
        ended => ended_result(ended),
    }
}
