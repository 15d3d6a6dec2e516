//! Events that wait for a time.

use futures_util::TryStreamExt;
use tokio_postgres::GenericClient;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::row::{LastSubject, PgTime, logged};
use super::{Error, Logged};
use crate::model::{EventId, LaneSet, RowHash, Timestamp};

/// Which version of its row in `deferred` was read (Postgres' `xmin`): another one says that somebody changed it since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowVersion(pub i64);

/// A deferred event that is due.
#[derive(Clone, Debug)]
pub struct Deferred {
    /// Attempts already made in this round.
    pub number: u32,
    /// Whose later events wait for it: a row's, or [`WHOLE_TRIGGER`](crate::model::WHOLE_TRIGGER)'s.
    pub holds: Option<RowHash>,
    /// Whether somebody gave it up: it is not to be sent.
    pub skipped: bool,
    /// Whether it is parked behind the one before it, and not due itself.
    pub follows: bool,
    /// As it was read.
    pub version: RowVersion,
    /// The event, read back from the log.
    pub logged: Logged,
}

#[cfg(test)]
impl Deferred {
    /// One that is due, for unit tests.
    pub fn example(logged: Logged, number: u32, holds: Option<RowHash>) -> Deferred {
        Deferred { number, holds, skipped: false, follows: false, version: RowVersion(1), logged }
    }
}

/// How many deferred events of a trigger may be read.
#[derive(Clone, Copy, Debug)]
pub struct DueRoom {
    /// The trigger.
    pub trigger_id: Uuid,
    /// Due events.
    pub due: i64,
    /// Bytes of row text and context, passed by one event at most.
    pub bytes: i64,
    /// Events that are parked behind these.
    pub following: i64,
}

/// Due events of these triggers and lanes, and what may follow them, without the ones in hand.
///
/// # Errors
/// [`Error::Corrupt`] for an event that does not read back; otherwise what Postgres said.
pub async fn due(
    client: &impl GenericClient,
    room: &[DueRoom],
    now: Timestamp,
    in_hand: &[EventId],
    lanes: LaneSet,
) -> Result<Vec<Deferred>, Error> {
    let column = |of: fn(&DueRoom) -> i64| room.iter().map(of).collect::<Vec<i64>>();
    let triggers: Vec<Uuid> = room.iter().map(|room| room.trigger_id).collect();
    let (due, bytes) = (column(|room| room.due), column(|room| room.bytes));
    let following = column(|room| room.following);
    let sql = include_str!("../../sql/deferred_due.sql");
    let parameters: [&(dyn ToSql + Sync); 7] =
        [&triggers, &due, &bytes, &following, &PgTime(now), &in_hand, &lanes.numbers()];
    // Row by row, so that they are not in memory twice.
    let mut rows = std::pin::pin!(client.query_raw(sql, parameters).await?);
    let (mut events, mut last_subject) = (Vec::new(), LastSubject::default());
    while let Some(row) = rows.try_next().await? {
        let number: i32 = row.get(3);
        let logged = logged(&row, (row.get(1), row.get(2)), row.get(0), 5, &mut last_subject)?;
        let logged = Logged { replay_id: row.get("replay_id"), ..logged };
        let (holds, skipped, follows) = (row.get("holds"), row.get("skipped"), row.get("follows"));
        let version = RowVersion(row.get("version"));
        events.push(Deferred { number: number as u32, holds, skipped, follows, version, logged });
    }
    Ok(events)
}

/// When the next deferred event of these triggers and lanes is due, without the ones in hand.
///
/// # Errors
/// What Postgres said.
pub async fn next_due(
    client: &impl GenericClient,
    triggers: &[Uuid],
    in_hand: &[EventId],
    lanes: LaneSet,
) -> Result<Option<Timestamp>, Error> {
    let sql = include_str!("../../sql/deferred_next.sql");
    let row = client.query_one(sql, &[&triggers, &in_hand, &lanes.numbers()]).await?;
    Ok(row.get::<_, Option<PgTime>>(0).map(|time| time.0))
}

/// The rows of a trigger in these lanes in which events wait.
///
/// # Errors
/// What Postgres said.
pub async fn held_rows(client: &impl GenericClient, trigger_id: Uuid, lanes: LaneSet) -> Result<Vec<RowHash>, Error> {
    let rows = client.query(include_str!("../../sql/deferred_held.sql"), &[&trigger_id, &lanes.numbers()]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
