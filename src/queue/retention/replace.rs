//! One old partition: dropped, or replaced by one of the same name and bounds that holds only what is kept.
//!
//! Rows are never deleted from a partition: that would leave the disk to vacuum. And what is kept does not go into a
//! table of its own: every statement that finds an event in the log goes on to find it.
//!
//! The two change places while nobody else uses the log, for some milliseconds. DETACH CONCURRENTLY would need no such
//! moment, but between it and the new one's ATTACH lie two transactions and a wait for every transaction that uses the
//! log; that long what is kept would not be found, neither by a retry that is due nor by an operator.

use tokio_postgres::{GenericClient, Transaction};

use super::super::Error;
use super::super::partition::{date, like_parent};
use super::super::row::PgTime;
use crate::model::Timestamp;
use crate::postgres::{self, Session};

/// What a partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Contents {
    /// Those are kept that wait, and those that died on this day (UTC) or later.
    Events { dead_since: i64 },
    /// Those of events that are in the log are kept.
    Attempts,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Done {
    Dropped,
    /// Replaced by a smaller one.
    Reduced,
    /// Most of its rows are kept, so it stays as it is.
    Nothing,
    /// These triggers have pending events in it.
    Held(Vec<String>),
    /// Somebody used it, or changed it meanwhile.
    InUse,
    /// Postgres refused, for this reason.
    Failed(String),
}

/// The statements for a kind of contents.
struct Statements {
    parent: &'static str,
    measure: &'static str,
    copy: &'static str,
    lock: &'static str,
}

const EVENTS: Statements = Statements {
    parent: "event",
    measure: include_str!("../../../sql/retention_event_measure.sql"),
    copy: include_str!("../../../sql/retention_event_copy.sql"),
    lock: include_str!("../../../sql/retention_event_lock.sql"),
};
const ATTEMPTS: Statements = Statements {
    parent: "attempt",
    measure: include_str!("../../../sql/retention_attempt_measure.sql"),
    copy: include_str!("../../../sql/retention_attempt_copy.sql"),
    lock: include_str!("../../../sql/retention_attempt_lock.sql"),
};

/// The name of a partition, in schema `walhook`.
pub(super) fn name(parent: &str, day: i64) -> String {
    format!("{parent}_{}", date(day).format("%Y%m%d"))
}

/// Drops a day's partition, or what need not be kept of it.
pub(super) async fn replace(session: &mut Session, contents: Contents, day: i64) -> Result<Done, Error> {
    let days = [PgTime(Timestamp::at_unix_day(day)), PgTime(Timestamp::at_unix_day(day + 1))];
    if let Contents::Events { .. } = contents {
        note_progress(&**session, &days).await?;
    }
    let transaction = session.transaction().await?;
    match replace_in(&transaction, contents, day, &days).await {
        Ok(done @ (Done::Dropped | Done::Reduced)) => {
            transaction.commit().await?;
            Ok(done)
        }
        Ok(done) => {
            transaction.rollback().await?;
            Ok(done)
        }
        Err(error) if is_busy(&error) => {
            transaction.rollback().await?;
            Ok(Done::InUse)
        }
        Err(error) => Err(error),
    }
}

/// Before the rows go that say it. Not in one transaction with that: capture waits for this row now and then.
async fn note_progress(client: &impl GenericClient, days: &[PgTime; 2]) -> Result<u64, Error> {
    Ok(client.execute(include_str!("../../../sql/retention_progress.sql"), &[&days[0], &days[1]]).await?)
}

async fn replace_in(
    transaction: &Transaction<'_>,
    contents: Contents,
    day: i64,
    days: &[PgTime; 2],
) -> Result<Done, Error> {
    let statements = match contents {
        Contents::Events { .. } => EVENTS,
        Contents::Attempts => ATTEMPTS,
    };
    let name = name(statements.parent, day);
    // From here on nothing is added to it; only a capture that is days behind would, and waits for our end.
    transaction.batch_execute(&begin(&name)).await?;
    let [from, to] = days;
    if let Contents::Events { dead_since } = contents {
        let pending = transaction.query(include_str!("../../../sql/retention_pending.sql"), &[from, to]).await?;
        if !pending.is_empty() {
            return Ok(Done::Held(pending.iter().map(|row| row.get(0)).collect()));
        }
        if note_progress(transaction, days).await? > 0 {
            return Ok(Done::InUse);
        }
        let keys = include_str!("../../../sql/retention_event_keys.sql");
        let dead_since = PgTime(Timestamp::at_unix_day(dead_since));
        transaction.execute(keys, &[from, to, &dead_since]).await?;
    } else {
        let until = PgTime(Timestamp::at_unix_day(day + 2));
        transaction.execute(include_str!("../../../sql/retention_attempt_keys.sql"), &[&until]).await?;
    }
    transaction.batch_execute("analyze walhook.kept").await?;
    let measured = transaction.query_one(statements.measure, &[from, to]).await?;
    let (rows, worthwhile): (i64, bool) = (measured.get(0), measured.get(1));
    if !worthwhile {
        return Ok(Done::Nothing);
    }
    let next = format!("{}_next", statements.parent);
    if rows > 0 {
        transaction.batch_execute(&like_parent(&next, statements.parent, Some(day))).await?;
        transaction.execute(statements.copy, &[from, to]).await?;
    }
    transaction.batch_execute(statements.lock).await?;
    if let Contents::Events { .. } = contents {
        let deferred = transaction.query_one(include_str!("../../../sql/retention_deferred.sql"), &[from, to]).await?;
        if deferred.get(0) {
            return Ok(Done::InUse);
        }
    }
    transaction.batch_execute(&exchange(statements.parent, &name, (rows > 0).then_some(day))).await?;
    Ok(if rows > 0 { Done::Reduced } else { Done::Dropped })
}

/// The table of what is kept is logged, as most of these transactions are rolled back: one that made an unlogged table
/// and is not whole in the WAL when the server crashes keeps it from starting ("could not create file … File exists").
fn begin(name: &str) -> String {
    format!(
        "set local lock_timeout = '100ms';
lock table only walhook.{name} in share mode nowait;
create table walhook.kept (trigger_id uuid not null, source_id smallint not null, seq bigint not null)"
    )
}

/// `day` where there is another one to take its place.
fn exchange(parent: &str, name: &str, day: Option<i64>) -> String {
    let mut statements = format!(
        "alter table walhook.{parent} detach partition walhook.{name};
drop table walhook.{name};
drop table walhook.kept;"
    );
    if let Some(day) = day {
        let (from, to) = (date(day), date(day + 1));
        statements.push_str(&format!(
            "alter table walhook.{parent}_next rename to {name};
alter table walhook.{parent} attach partition walhook.{name}
    for values from ('{from} 00:00:00+00') to ('{to} 00:00:00+00');"
        ));
    }
    statements
}

/// Whether somebody else had what we need: `lock_not_available`, `deadlock_detected`.
fn is_busy(error: &Error) -> bool {
    let Error::Postgres(error @ postgres::Error::Postgres(_)) = error else { return false };
    matches!(error.sqlstate(), Some(postgres::LOCK_NOT_AVAILABLE | "40P01"))
}
