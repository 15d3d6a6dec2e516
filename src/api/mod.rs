//! The HTTP surface: Hasura's dialect, health and metrics.

mod authentication;
mod hasura;
mod health;
mod metrics;
mod server;

use std::sync::Arc;

use axum::Router;
use axum::routing::{any, get};
use tokio::sync::watch;

pub use authentication::Secrets;
pub use health::Readiness;
pub use metrics::{Watched, WatchedSource};
pub use server::serve;

use self::metrics::Metrics;
use crate::triggers::{self, Catalogue};

/// What the handlers share. Cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    catalogues: Arc<[Catalogue]>,
    secrets: Arc<Secrets>,
    readiness: watch::Receiver<Readiness>,
    metrics: Arc<Metrics>,
}

impl ApiState {
    /// With the catalogue of each source. Without an admin secret every caller is admin; then only a loopback address
    /// may be listened on, which is for the caller to see to.
    pub fn new(
        catalogues: Vec<Catalogue>,
        secrets: Secrets,
        readiness: watch::Receiver<Readiness>,
        watched: Watched,
    ) -> Self {
        let metrics = Arc::new(Metrics::new(watched));
        ApiState { catalogues: catalogues.into(), secrets: Arc::new(secrets), readiness, metrics }
    }

    /// The catalogue of the source of this name.
    fn catalogue(&self, source: &str) -> Result<&Catalogue, triggers::Error> {
        let found = self.catalogues.iter().find(|catalogue| catalogue.source_name() == source);
        found.ok_or_else(|| triggers::Error::UnknownSource(source.to_owned()))
    }
}

/// Every route; what is not one is answered as Hasura does, wrong methods included.
pub fn router(state: ApiState) -> Router {
    Router::new()
        .route("/v1/query", any(hasura::query))
        .route("/v1/metadata", any(hasura::metadata))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics::metrics))
        .fallback(hasura::not_found)
        .method_not_allowed_fallback(hasura::not_found)
        .with_state(state)
}

#[cfg(test)]
mod tests;
