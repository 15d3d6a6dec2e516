//! Goes on with replays, whichever node they were asked of: makes their events due, a chunk at a time.

use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::postgres::Pool;
use crate::queue;

/// While there is one.
const BETWEEN_CHUNKS: Duration = Duration::from_millis(200);
/// While there is none that was told of.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);

/// Runs until the stop. `asked` tells that one was asked for.
pub(super) async fn run(pool: Pool, asked: &Notify, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        never = work(pool, asked) => match never {},
    }
}

async fn work(pool: Pool, asked: &Notify) -> std::convert::Infallible {
    let mut told = false;
    loop {
        let pause = match queue::advance_replays(&pool).await {
            Ok(some) => {
                told = false;
                if some { BETWEEN_CHUNKS } else { BETWEEN_LOOKS }
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    warn!("replays wait: {error}; trying again");
                }
                BETWEEN_LOOKS
            }
        };
        tokio::select! {
            () = asked.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
