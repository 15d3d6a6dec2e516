//! The composition root: builds every part, owns every task, and shuts them down together.

mod config;
mod file;
mod settings;

pub use config::{Config, LogFormat, Problems, Roles};
pub use settings::RawSettings;

use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::{self, ApiState, Readiness};
use crate::capture;
use crate::delivery::{self, Command, Handle};
use crate::model::Environment;
use crate::postgres::{self, Class, NotReady, Pool};
use crate::queue::{self, FeedReceiver, FeedSender};
use crate::triggers::{Catalogue, SourceInfo};

const POOL_SIZE: usize = 4;
/// How long an unreachable database is waited for at the start: long enough for a server that starts beside us.
const FIRST_CONNECTION: Duration = Duration::from_secs(60);
const CONNECTION_PAUSE: Duration = Duration::from_secs(2);
/// Beside the grace time of requests, for recording them and for closing connections.
const CLOSING: Duration = Duration::from_secs(10);

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
    /// The API stopped serving.
    #[error("the API stopped: {0}")]
    Api(std::io::Error),
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
            Error::NotReady(_) | Error::Listen { .. } | Error::Delivery(_) | Error::UnknownSource(_) => true,
            Error::Api(_) | Error::Task { .. } => false,
        }
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
    if !set_up(&config, &stop).await? {
        return Ok(());
    }
    let queue = postgres::pool(config.queue(), "walhook", POOL_SIZE);
    let source = config.queue.as_ref().map(|_| postgres::pool(&config.database, "walhook", POOL_SIZE));
    let source = source.unwrap_or_else(|| queue.clone());
    let mut tasks = Tasks::new(stop);
    let (feed, handed_over) = queue::feed();
    let delivery = tasks.start_delivery(&config, queue.clone(), handed_over);
    let info = SourceInfo { name: config.source.clone(), publication: config.publication.clone() };
    let catalogue = Catalogue::new(source, queue, info, config.replica_identity, delivery);
    let captured = tasks.start_capture(&config, feed);
    if let Some(captured) = captured.clone() {
        tasks.start_upkeep(catalogue.clone(), captured);
    }
    if let Some(listener) = listener {
        tasks.start_api(&config, catalogue, captured, listener);
    }
    tasks.finish(config.grace).await
}

async fn listen(config: &Config) -> Result<TcpListener, Error> {
    let address = config.listen;
    TcpListener::bind(address).await.map_err(|reason| Error::Listen { address, reason })
}

/// Checks the databases, migrates, and makes publication and slot. False when stopped meanwhile.
async fn set_up(config: &Config, stop: &CancellationToken) -> Result<bool, Error> {
    let started = tokio::time::Instant::now();
    loop {
        let error = match set_up_once(config).await {
            Ok(()) => return Ok(true),
            Err(error) => error,
        };
        let transient = match &error {
            Error::Capture(error) => error.class() == Class::Retry,
            Error::Postgres(error) => error.class() == Class::Retry,
            Error::Queue(error) => error.class() == Class::Retry,
            _ => false,
        };
        if !transient || started.elapsed() > FIRST_CONNECTION {
            return Err(error);
        }
        warn!("{error}; trying again in {CONNECTION_PAUSE:?}");
        tokio::select! {
            () = stop.cancelled() => return Ok(false),
            () = tokio::time::sleep(CONNECTION_PAUSE) => {}
        }
    }
}

async fn set_up_once(config: &Config) -> Result<(), Error> {
    check_databases(config).await?;
    let capture = config.capture_options();
    for database in [Some(&config.database), config.queue.as_ref()].into_iter().flatten() {
        let mut session = postgres::connect(database, "walhook setup").await?;
        let applied = postgres::migrate(&mut session).await?;
        if applied > 0 {
            info!("applied {applied} migrations to schema walhook of {database:?}");
        }
    }
    if config.roles.capture {
        return Ok(capture::prepare(&capture).await?);
    }
    let session = postgres::connect(config.queue(), "walhook setup").await?;
    let source = queue::find_source(&*session, &config.source).await?;
    source.map(drop).ok_or_else(|| Error::UnknownSource(config.source.clone()))
}

/// Checks every database before anything is made in one of them, so that all that is missing is said at once.
async fn check_databases(config: &Config) -> Result<(), Error> {
    let mut unready = Vec::new();
    if config.roles.capture {
        match capture::check(&config.capture_options()).await {
            Ok(facts) => info!("Postgres {} at {:?}", facts.version, config.database),
            Err(capture::Error::NotReady(problems)) => unready.push(problems),
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(queue) = &config.queue {
        match queue::check(queue).await {
            Ok(()) => {}
            Err(queue::Error::NotReady(problems)) => unready.push(problems),
            Err(error) => return Err(error.into()),
        }
    }
    if unready.is_empty() { Ok(()) } else { Err(Error::NotReady(unready)) }
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

    fn start_capture(&mut self, config: &Config, feed: FeedSender) -> Option<watch::Receiver<capture::State>> {
        if !config.roles.capture {
            return None;
        }
        let (state, captured) = watch::channel(capture::State::Starting);
        // A gap is accepted once, by `capture::prepare`, and not again by each reconnect.
        let options = config.capture_options();
        let stop = self.stop.clone();
        self.running
            .spawn(async move { ("capture", capture::run(options, feed, state, stop).await.map_err(Error::from)) });
        Some(captured)
    }

    fn start_delivery(&mut self, config: &Config, pool: Pool, feed: FeedReceiver) -> Option<Handle> {
        if !config.roles.delivery {
            return None;
        }
        let (handle, commands): (Handle, mpsc::Receiver<Command>) = delivery::handle();
        let parts = delivery::Parts {
            database: config.queue().clone(),
            pool,
            environment: Environment::process(),
            feed: config.roles.capture.then_some(feed),
            commands,
            grace: config.grace,
        };
        let stop = self.stop.clone();
        self.running
            .spawn(async move { ("delivery", Box::pin(delivery::run(parts, stop)).await.map_err(Error::from)) });
        Some(handle)
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
        catalogue: Catalogue,
        captured: Option<watch::Receiver<capture::State>>,
        listener: TcpListener,
    ) {
        let (ready, readiness) = watch::channel(Readiness { migrated: true, streaming: false, serving: true });
        let state = ApiState::new(catalogue, config.admin_secret.clone(), readiness);
        info!("API on http://{}", config.listen);
        let stop = self.stop.clone();
        self.running.spawn(async move {
            let follow = follow_capture(captured, ready);
            let serve = api::serve(listener, state, stop);
            tokio::select! {
                served = serve => ("API", served.map_err(Error::Api)),
                never = follow => match never {},
            }
        });
    }

    /// Waits for the stop or the first end, then for everything else to end in its time.
    async fn finish(mut self, grace: std::time::Duration) -> Result<(), Error> {
        let mut result = Ok(());
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => info!("stopping; requests under way have {grace:?}"),
            Some(ended) = self.running.join_next() => {
                result = ended_early(ended, &stop);
                self.stop.cancel();
            }
        }
        let rest = async {
            let mut first = Ok(());
            while let Some(ended) = self.running.join_next().await {
                let ended = ended_result(ended);
                if first.is_ok() {
                    first = ended;
                }
            }
            first
        };
        match tokio::time::timeout(grace + CLOSING, rest).await {
            Ok(ended) => result.and(ended),
            Err(_) => {
                warn!("not everything ended in time; what was under way will be sent again after the next start");
                result
            }
        }
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

/// Keeps readiness in step with capture. A node that does not capture leaves that to another one.
async fn follow_capture(
    captured: Option<watch::Receiver<capture::State>>,
    ready: watch::Sender<Readiness>,
) -> std::convert::Infallible {
    let set = |streaming| ready.send_modify(|readiness| readiness.streaming = streaming);
    let Some(mut captured) = captured else {
        set(true);
        return std::future::pending().await;
    };
    loop {
        set(*captured.borrow_and_update() != capture::State::Starting);
        if captured.changed().await.is_err() {
            set(false);
            return std::future::pending().await;
        }
    }
}
