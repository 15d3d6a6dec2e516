//! Accepting connections until told to stop.

use std::io;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{ApiState, router};

/// Serves until `stop` is cancelled, then finishes the requests that are under way. The caller bounds that time.
///
/// # Errors
/// When the listener cannot be served from.
pub async fn serve(listener: TcpListener, state: ApiState, stop: CancellationToken) -> io::Result<()> {
    axum::serve(listener, router(state)).with_graceful_shutdown(stop.cancelled_owned()).await
}
