//! `GET /metrics`: what capture and delivery count, in the text format that Prometheus reads.

mod page;

use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use self::page::{Source, Watch};
use super::{ApiState, authentication};
use crate::capture;
use crate::delivery;
use crate::node::Lease;
use crate::postgres::{Pool, Pooled};
use crate::queue::{self, Waiting};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What the database is asked for is not asked for more often, however many scrape.
const ASK_EVERY: Duration = Duration::from_secs(10);
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// What there is to be watched in this process. What does not run here is absent, and so are its metrics.
#[derive(Clone, Default)]
pub struct Watched {
    /// Each source.
    pub sources: Vec<WatchedSource>,
    /// The running delivery.
    pub delivery: Option<delivery::Handle>,
    /// That of this node among the others.
    pub lease: Option<Lease>,
    /// The queue's database.
    pub queue: Option<Pool>,
}

/// A source's capture.
#[derive(Clone)]
pub struct WatchedSource {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub state: watch::Receiver<capture::State>,
    /// What came of it.
    pub figures: watch::Receiver<capture::Figures>,
}

/// What was found in the database, and when.
type Found = Option<(Instant, Option<Vec<Waiting>>)>;

/// What is watched, and what was read for it lately.
pub(super) struct Metrics {
    watched: Watched,
    found: Mutex<Found>,
}

impl Metrics {
    pub(super) fn new(watched: Watched) -> Metrics {
        Metrics { watched, found: Mutex::default() }
    }

    async fn look(&self) -> Watch {
        let Watched { sources, delivery, lease, .. } = &self.watched;
        let source = |source: &WatchedSource| Source {
            name: source.name.clone(),
            is_captured: *source.state.borrow() == capture::State::Streaming,
            figures: source.figures.borrow().clone(),
        };
        let figures = async {
            match delivery {
                Some(delivery) => timeout(ANSWERS_WITHIN, delivery.figures()).await.ok().flatten(),
                None => None,
            }
        };
        let (delivery, waiting) = tokio::join!(figures, self.waiting());
        let sources = sources.iter().map(source).collect();
        Watch { sources, delivery, is_live: lease.as_ref().map(Lease::is_valid), waiting }
    }

    /// A number that was not found out is not shown: neither an old one nor none at all.
    async fn waiting(&self) -> Option<Vec<Waiting>> {
        let pool = self.watched.queue.as_ref()?;
        let mut found = self.found.lock().await;
        if let Some((_, waiting)) = found.as_ref().filter(|(at, _)| at.elapsed() < ASK_EVERY) {
            return waiting.clone();
        }
        let waiting = ask(pool).await;
        *found = Some((Instant::now(), waiting.clone()));
        waiting
    }
}

async fn ask(pool: &Pool) -> Option<Vec<Waiting>> {
    let mut client = timeout(ANSWERS_WITHIN, pool.get()).await.ok()?.ok()?;
    let asking = async {
        let transaction = client.transaction().await?;
        queue::oldest_waiting(&transaction).await
    };
    match timeout(ANSWERS_WITHIN, asking).await {
        Ok(Ok(waiting)) => Some(waiting),
        Ok(Err(error)) => {
            tracing::debug!("/metrics does not say how long events wait: {error}");
            None
        }
        Err(_) => {
            drop(Pooled::take(client));
            None
        }
    }
}

/// `GET /metrics`
pub(super) async fn metrics(State(state): State<ApiState>, headers: HeaderMap) -> Response {
    if let Err(error) = authentication::check_scraper(&state.secrets, &headers) {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (challenge, error.into_response()).into_response();
    }
    match state.metrics.look().await.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        // Writing into a string cannot fail.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
