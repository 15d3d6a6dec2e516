//! Hears what other sessions and nodes did and passes it on to whom it concerns, who then need not wait for a slow
//! look. While nothing can be heard, that look is all there is.

use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Handle;
use crate::node::Member;
use crate::postgres::Settings;
use crate::queue::{self, Notice};

const PAUSE: Duration = Duration::from_secs(2);

/// Runs until the stop.
pub(super) async fn run(
    queue: Settings,
    dispatcher: Handle,
    member: Member,
    replay_asked: &Notify,
    stop: CancellationToken,
) {
    tokio::select! {
        () = stop.cancelled() => {}
        never = listen(queue, dispatcher, member, replay_asked) => match never {},
    }
}

async fn listen(
    queue: Settings,
    dispatcher: Handle,
    member: Member,
    replay_asked: &Notify,
) -> std::convert::Infallible {
    let mut told = false;
    loop {
        match queue::listen(&queue).await {
            Ok(mut notices) => {
                if std::mem::take(&mut told) {
                    info!("notices of other sessions are heard again");
                }
                // What was told while nobody listened.
                dispatcher.triggers_changed().await;
                dispatcher.deferred_added().await;
                while let Some(notice) = notices.next().await {
                    match notice {
                        Notice::Triggers => dispatcher.triggers_changed().await,
                        Notice::Deferred => dispatcher.deferred_added().await,
                        Notice::Replays => replay_asked.notify_one(),
                        Notice::Lanes => member.look_at_others(),
                        Notice::Log { source_id, head } => dispatcher.log_grew(source_id, head).await,
                    }
                }
            }
            Err(error) if !std::mem::replace(&mut told, true) => {
                warn!("notices of other sessions are not heard: {error}; what they do takes some seconds to be seen");
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}
