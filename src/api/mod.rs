//! The HTTP surface: Hasura's dialect and health.

mod authentication;
mod hasura;
mod health;
mod server;

use std::sync::Arc;

use axum::Router;
use axum::routing::{any, get};
use secrecy::SecretString;
use tokio::sync::watch;

pub use health::Readiness;
pub use server::serve;

use crate::triggers::Catalogue;

/// What the handlers share. Cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    catalogue: Arc<Catalogue>,
    admin_secret: Option<Arc<SecretString>>,
    readiness: watch::Receiver<Readiness>,
}

impl ApiState {
    /// Without an admin secret every caller is admin; then only a loopback address may be listened on, which is for the
    /// caller to see to.
    pub fn new(
        catalogue: Catalogue,
        admin_secret: Option<SecretString>,
        readiness: watch::Receiver<Readiness>,
    ) -> Self {
        ApiState { catalogue: Arc::new(catalogue), admin_secret: admin_secret.map(Arc::new), readiness }
    }
}

/// Every route; what is not one is answered as Hasura does, wrong methods included.
pub fn router(state: ApiState) -> Router {
    Router::new()
        .route("/v1/query", any(hasura::query))
        .route("/v1/metadata", any(hasura::metadata))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .fallback(hasura::not_found)
        .method_not_allowed_fallback(hasura::not_found)
        .with_state(state)
}

#[cfg(test)]
mod tests;
