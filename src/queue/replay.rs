//! Replays: making the events of a stretch of the log due again, a chunk at a time.

use deadpool_postgres::Transaction;
use uuid::Uuid;

use super::Error;
use crate::postgres::{LOCK_NOT_AVAILABLE, Pool};

/// So many events of a replay wait at most: enough to keep its endpoint busy, and few beside what else is deferred.
const AHEAD: i64 = 2_000;
/// Events that are made due by one statement.
const CHUNK: i64 = 1_000;
/// What a replay with a rate has waiting at most, in seconds of it: so much comes at once after a pause.
const AHEAD_SEC: i64 = 10;

/// A replay that is not over, as it was just now.
struct Open {
    id: Uuid,
    trigger_id: Uuid,
    source_id: i16,
    /// Every event up to this seq was looked at.
    done_to: i64,
    /// Its last one.
    to_seq: i64,
    /// Events a second.
    rate: Option<i32>,
    /// Whether its trigger is there.
    live: bool,
    /// How many of its events wait to be sent, for the first time or once more, up to [`AHEAD`].
    waiting: i64,
    /// How many of those wait for the first time. The others may wait for hours, and nothing waits for them.
    ahead: i64,
}

/// What follows for a replay.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Make so many events due.
    Queue(i64),
    /// So many wait that this can wait, too.
    Wait,
    End(Option<&'static str>),
}

impl Open {
    fn step(&self) -> Step {
        if !self.live {
            return Step::End(Some("the trigger was deleted"));
        }
        if self.done_to >= self.to_seq {
            return if self.waiting == 0 { Step::End(None) } else { Step::Wait };
        }
        let most = self.rate.map_or(AHEAD, |rate| (i64::from(rate) * AHEAD_SEC).min(AHEAD));
        let room = (most - self.ahead).min(AHEAD - self.waiting).min(CHUNK);
        // A statement for a few events costs as much as one for many: half must be sent.
        if self.ahead > most / 2 || room <= 0 { Step::Wait } else { Step::Queue(room) }
    }
}

/// Goes on with every replay that no other node has in hand at the moment, but for those that would have to wait for
/// somebody who redelivers or skips an event of theirs in a transaction that is open still. Gives whether there is one.
///
/// # Errors
/// What Postgres said; nothing was done.
pub async fn advance_replays(pool: &Pool) -> Result<bool, Error> {
    let mut client = pool.get().await?;
    let mut transaction = client.transaction().await?;
    transaction.batch_execute("set local lock_timeout = '200ms'").await?;
    let open = transaction.query(include_str!("../../sql/replay_open.sql"), &[&AHEAD]).await?;
    for row in &open {
        let replay = Open {
            id: row.get("id"),
            trigger_id: row.get("trigger_id"),
            source_id: row.get("source_id"),
            done_to: row.get("done_to"),
            to_seq: row.get("to_seq"),
            rate: row.get("rate"),
            live: row.get("live"),
            waiting: row.get("waiting"),
            ahead: row.get("ahead"),
        };
        let step = transaction.transaction().await?;
        match advance(&step, &replay).await {
            Ok(()) => step.commit().await?,
            Err(Error::Postgres(error)) if error.sqlstate() == Some(LOCK_NOT_AVAILABLE) => step.rollback().await?,
            Err(error) => return Err(error),
        }
    }
    transaction.commit().await?;
    Ok(!open.is_empty())
}

async fn advance(transaction: &Transaction<'_>, replay: &Open) -> Result<(), Error> {
    match replay.step() {
        Step::Queue(events) => {
            let Open { id, trigger_id, source_id, done_to, to_seq, .. } = replay;
            let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
                &[id, &events, trigger_id, source_id, done_to, to_seq];
            transaction.execute(include_str!("../../sql/replay_advance.sql"), values).await?;
        }
        Step::Wait => {}
        Step::End(error) => {
            transaction.execute(include_str!("../../sql/replay_end.sql"), &[&replay.id, &error]).await?;
            if error.is_some() {
                forget_replay(transaction, replay.id).await?;
            }
        }
    }
    Ok(())
}

/// Drops what a replay made due and was not sent yet.
///
/// # Errors
/// What Postgres said.
pub async fn forget_replay(transaction: &Transaction<'_>, replay_id: Uuid) -> Result<(), Error> {
    transaction.execute(include_str!("../../sql/replay_forget.sql"), &[&replay_id]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(waiting: i64, rate: Option<i32>) -> Open {
        let (id, trigger_id) = (Uuid::nil(), Uuid::nil());
        Open { id, trigger_id, source_id: 1, done_to: 5, to_seq: 6, rate, live: true, waiting, ahead: waiting }
    }

    #[test]
    fn a_replay_keeps_only_so_much_ahead_and_ends_when_all_was_sent() {
        let step = |waiting, rate| open(waiting, rate).step();
        assert_eq!(step(0, None), Step::Queue(CHUNK));
        assert_eq!(step(AHEAD / 2, None), Step::Queue(AHEAD / 2));
        assert_eq!(step(AHEAD / 2 + 1, None), Step::Wait);
        assert_eq!(
            [step(0, Some(1)), step(5, Some(1)), step(6, Some(1))],
            [Step::Queue(10), Step::Queue(5), Step::Wait]
        );
        assert_eq!(step(0, Some(i32::MAX)), Step::Queue(CHUNK));
        // Those that failed are overtaken.
        let failed = |waiting, rate| Open { ahead: 0, ..open(waiting, rate) }.step();
        assert_eq!([failed(9, Some(1)), failed(AHEAD - 1, None)], [Step::Queue(10), Step::Queue(1)]);
        assert_eq!(failed(AHEAD, None), Step::Wait);
        let over = |waiting| Open { done_to: 6, ..open(waiting, None) }.step();
        assert_eq!((over(1), over(0)), (Step::Wait, Step::End(None)));
        assert!(matches!(Open { live: false, ..open(1, None) }.step(), Step::End(Some(_))));
    }
}
