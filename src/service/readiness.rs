//! Whether this node is ready, by how its sources are.

use tokio::sync::watch;

use crate::api::Readiness;
use crate::capture;

/// Keeps readiness in step with the sources: each must stream, here or on another node.
pub(super) async fn follow_sources(
    mut states: Vec<watch::Receiver<capture::State>>,
    ready: watch::Sender<Readiness>,
) -> std::convert::Infallible {
    loop {
        let works = |state: &mut watch::Receiver<capture::State>| {
            matches!(*state.borrow_and_update(), capture::State::Streaming | capture::State::StandingBy)
        };
        // Each is looked at, so that each is waited for below.
        let working = states.iter_mut().filter_map(|state| works(state).then_some(())).count();
        ready.send_modify(|readiness| readiness.streaming = working == states.len());
        let changes = states.iter_mut().map(|state| Box::pin(state.changed()));
        if futures_util::future::select_all(changes).await.0.is_err() {
            // The sources' tasks ended, and so does everything.
            ready.send_modify(|readiness| readiness.streaming = false);
            return std::future::pending().await;
        }
    }
}
