//! Reading the event log back: what delivery was not handed in memory.

use std::collections::HashSet;

use futures_util::TryStreamExt;
use serde_json::Value;
use tokio_postgres::GenericClient;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::row::{LastSubject, logged};
use super::{Error, Floor, Logged};

/// A stretch of the log, and how much of it at most.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The first event has a greater seq.
    pub after: i64,
    /// The last event has this seq or a smaller one.
    pub up_to: i64,
    /// Rows at most.
    pub rows: i64,
    /// Bytes of row text and context at most, passed by one row at most.
    pub bytes: i64,
    /// Each lane's events up to here are left out.
    pub floor: Floor,
}

const READ: &str = include_str!("../../sql/backlog_read.sql");
/// The last of its columns.
const FOUND: usize = 20;

/// Events that were read back.
#[derive(Debug, Default)]
pub struct Backlog {
    /// In the order of the log.
    pub events: Vec<Logged>,
    /// Whether there are no more within the stretch that was asked for.
    pub complete: bool,
}

/// A trigger's next events.
///
/// # Errors
/// [`Error::Corrupt`] for an event that does not read back; otherwise what Postgres said.
pub async fn read_backlog(
    client: &impl GenericClient,
    trigger_id: Uuid,
    source_id: i16,
    bounds: Bounds,
) -> Result<Backlog, Error> {
    let Bounds { after, up_to, rows, bytes, floor } = bounds;
    let floor = floor.as_slice();
    let parameters: [&(dyn ToSql + Sync); 7] = [&trigger_id, &source_id, &after, &up_to, &rows, &bytes, &floor];
    // Row by row, so that they are not in memory twice.
    let mut read = std::pin::pin!(client.query_raw(READ, parameters).await?);
    let (mut events, mut found, mut last_subject) = (Vec::new(), 0, LastSubject::default());
    while let Some(row) = read.try_next().await? {
        found = row.get(FOUND);
        events.push(logged(&row, (source_id, row.get(0)), trigger_id, 1, &mut last_subject)?);
    }
    let complete = found < rows && events.len() as i64 == found;
    Ok(Backlog { events, complete })
}

/// A stretch of a trigger's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The trigger.
    pub trigger_id: Uuid,
    /// Its source.
    pub source_id: i16,
    /// It begins after this seq.
    pub after: i64,
    /// It ends with this one.
    pub up_to: i64,
}

/// The triggers that have events in these stretches, in whichever lanes.
///
/// # Errors
/// What Postgres said.
pub async fn triggers_with_events(client: &impl GenericClient, stretches: &[Stretch]) -> Result<HashSet<Uuid>, Error> {
    fn column<T>(stretches: &[Stretch], of: impl Fn(&Stretch) -> T) -> Vec<T> {
        stretches.iter().map(of).collect()
    }
    let triggers = column(stretches, |stretch| stretch.trigger_id);
    let sources = column(stretches, |stretch| stretch.source_id);
    let (after, up_to) = (column(stretches, |stretch| stretch.after), column(stretches, |stretch| stretch.up_to));
    let sql = include_str!("../../sql/backlog_exists.sql");
    let rows = client.query(sql, &[&triggers, &sources, &after, &up_to]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What a read of a trigger's next events costs: it is done, and what Postgres says of it given (EXPLAIN with ANALYZE
/// and BUFFERS, as JSON).
///
/// # Errors
/// What Postgres said.
pub async fn explain_backlog(
    client: &impl GenericClient,
    trigger_id: Uuid,
    source_id: i16,
    bounds: Bounds,
) -> Result<Value, Error> {
    let sql = format!("explain (analyze, buffers, format json) {READ}");
    let Bounds { after, up_to, rows, bytes, floor } = bounds;
    let row =
        client.query_one(&sql, &[&trigger_id, &source_id, &after, &up_to, &rows, &bytes, &floor.as_slice()]).await?;
    Ok(row.get(0))
}

/// The events after their lanes' cursors that are done or deferred.
///
/// # Errors
/// What Postgres said.
pub async fn dealt_with_after(
    client: &impl GenericClient,
    trigger_id: Uuid,
    source_id: i16,
    floor: &Floor,
) -> Result<HashSet<i64>, Error> {
    let after = floor.iter().copied().min().unwrap_or(0);
    let sql = include_str!("../../sql/attempt_after.sql");
    let floor = floor.as_slice();
    let parameters: [&(dyn ToSql + Sync); 4] = [&trigger_id, &source_id, &after, &floor];
    // Row by row, as there may be very many.
    let rows = client.query_raw(sql, parameters).await?;
    Ok(rows.map_ok(|row| row.get::<_, i64>(0)).try_collect().await?)
}

/// The last seq of each source's log, for a delivery that is not handed events in memory.
///
/// # Errors
/// What Postgres said.
pub async fn heads(client: &impl GenericClient) -> Result<Vec<(i16, i64)>, Error> {
    let rows = client.query(include_str!("../../sql/log_head.sql"), &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
