//! Looks after partitions for as long as the node runs, and says what keeps them.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::super::Error;
use super::super::clock::server_time;
use super::{Keeper, Retention, Round};
use crate::postgres::{self, Settings};

const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// After a round that could not do everything.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(60);
/// A log that is in use each time for so many rounds is worth a line.
const MANY_ROUNDS: u32 = 30;

/// What was said so far.
#[derive(Default)]
struct Said {
    held: Vec<String>,
    rounds_in_use: u32,
    failed: bool,
    refused: BTreeMap<String, String>,
}

/// Runs until stopped, on every node: whichever comes first does the work. Failures are said and tried again.
pub async fn look_after(queue: Settings, retention: Retention, stop: CancellationToken) {
    let usual = (retention.events / 8).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
    let (mut keeper, mut said) = (Keeper::new(retention), Said::default());
    loop {
        let round = tokio::select! {
            () = stop.cancelled() => return,
            round = round(&queue, &mut keeper) => round,
        };
        let complete = said.tell(round);
        let pause = if complete { usual } else { usual.min(PAUSE_AFTER_FAILURE) };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn round(queue: &Settings, keeper: &mut Keeper) -> Result<Option<Round>, Error> {
    let mut session = postgres::connect(queue, "walhook retention").await?;
    let now = server_time(&*session).await?;
    keeper.round(&mut session, now).await
}

impl Said {
    /// Whether everything was done that is to be done now.
    fn tell(&mut self, round: Result<Option<Round>, Error>) -> bool {
        let round = match round {
            Ok(Some(round)) => round,
            // Another node is at it.
            Ok(None) => return true,
            Err(error) => {
                if !std::mem::replace(&mut self.failed, true) {
                    warn!("partitions could not be looked after: {error}; trying again");
                }
                return false;
            }
        };
        self.failed = false;
        for name in &round.dropped {
            info!(partition = name, "dropped: it is older than --retention");
        }
        for name in &round.reduced {
            info!(partition = name, "reduced to what is dead or waits: it is older than --retention");
        }
        let mut held: Vec<String> = round.held.into_values().flatten().collect();
        held.sort_unstable();
        held.dedup();
        if held != self.held && !held.is_empty() {
            warn!(
                "events older than --retention stay, with all that committed on their days, because these triggers \
                 have still to send or replay them: {}; let them go on or delete them",
                held.join(", ")
            );
        }
        self.held = held;
        for (partition, reason) in round.failed.iter().filter(|(name, _)| !self.refused.contains_key(*name)) {
            warn!(
                partition,
                "older than --retention, and can be neither dropped nor reduced: {reason}; remove what keeps it, it is \
                 tried again"
            );
        }
        // One that is in use was not come to.
        self.refused.retain(|name, _| round.in_use.contains(name));
        self.refused.extend(round.failed);
        if round.in_use.is_empty() {
            self.rounds_in_use = 0;
            return true;
        }
        self.rounds_in_use += 1;
        debug!("in use, so not dropped yet: {}", round.in_use.join(", "));
        if self.rounds_in_use.is_multiple_of(MANY_ROUNDS) {
            warn!(
                "old partitions cannot be dropped, as transactions use the log all the while: {}; \
                 pg_stat_activity has those that have been open for long",
                round.in_use.join(", ")
            );
        }
        false
    }
}
