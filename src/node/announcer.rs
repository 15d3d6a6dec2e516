//! Tells other nodes of new events, so that they need not wait for their slow look at the log. While no other node
//! delivers, nothing is told, and appends wake nobody here.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use tracing::warn;

use super::Member;
use crate::postgres::Pool;
use crate::queue::{self, Heads, Notice};

/// Between two notices: a busy log need not be told of with each append.
const BETWEEN: Duration = Duration::from_millis(50);
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// Tells of what is appended here; never ends.
pub async fn announce(pool: Pool, mut member: Member, mut heads: watch::Receiver<Heads>) -> Infallible {
    let mut told = Heads::new();
    let mut failed = false;
    loop {
        if member.standing.wait_for(|standing| standing.others_deliver).await.is_err() || heads.changed().await.is_err()
        {
            // Everything ends.
            return std::future::pending().await;
        }
        let now = heads.borrow_and_update().clone();
        let pause = match tell(&pool, &told, &now).await {
            Ok(()) => {
                (told, failed) = (now, false);
                BETWEEN
            }
            Err(error) => {
                if !std::mem::replace(&mut failed, true) {
                    warn!("other nodes are not told of new events: {error}; they find them within seconds");
                }
                FAILURE_PAUSE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn tell(pool: &Pool, told: &Heads, now: &Heads) -> Result<(), queue::Error> {
    let news = now.iter().filter(|(source_id, head)| told.get(*source_id) != Some(*head));
    let notices: Vec<Notice> =
        news.map(|(source_id, head)| Notice::Log { source_id: *source_id, head: *head }).collect();
    let client = pool.get().await?;
    for notice in notices {
        queue::tell(&**client, notice).await?;
    }
    Ok(())
}
