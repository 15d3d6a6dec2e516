//! Backfills: what was asked for, and how far it is.

use std::collections::HashMap;

use tokio_postgres::GenericClient;
use uuid::Uuid;

use super::Error;

/// A backfill to work on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backfill {
    /// Its id.
    pub id: Uuid,
    /// Whose events it makes.
    pub trigger_id: Uuid,
    /// That trigger's name.
    pub trigger: String,
    /// The trigger's table; none where the trigger was deleted or has no table.
    pub relation: Option<u32>,
    /// SQL over the table's columns.
    pub condition: Option<String>,
    /// In whose order the rows are read.
    pub key_columns: Vec<String>,
}

/// The source's first backfill that is not over.
///
/// # Errors
/// What Postgres said.
pub async fn next_backfill(client: &impl GenericClient, catalogue_id: i16) -> Result<Option<Backfill>, Error> {
    let row = client.query_opt(include_str!("../../sql/backfill_next.sql"), &[&catalogue_id]).await?;
    Ok(row.map(|row| Backfill {
        id: row.get(0),
        trigger_id: row.get(1),
        trigger: row.get(2),
        relation: row.get::<_, Option<u32>>(3).filter(|_| row.get(4)),
        condition: row.get(5),
        key_columns: row.get(6),
    }))
}

/// How far a backfill is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advanced {
    /// The key of the last row that the log is done with.
    pub last_key: Vec<String>,
    /// Rows that were looked at.
    pub looked_at: i64,
    /// Rows that are in the log.
    pub sent: i64,
    /// Rows that are not, because the stream had newer events of them.
    pub superseded: i64,
}

/// How far these backfills are, in the database of the log; without those that have no chunk there.
///
/// # Errors
/// What Postgres said.
pub async fn advanced(client: &impl GenericClient, ids: &[Uuid]) -> Result<HashMap<Uuid, Advanced>, Error> {
    let rows = client.query(include_str!("../../sql/backfill_progress.sql"), &[&ids]).await?;
    let read = |row: &tokio_postgres::Row| {
        let (last_key, looked_at) = (row.get(1), row.get(2));
        (row.get(0), Advanced { last_key, looked_at, sent: row.get(3), superseded: row.get(4) })
    };
    Ok(rows.iter().map(read).collect())
}

/// Shows that it is being worked on.
///
/// # Errors
/// What Postgres said.
pub async fn start_backfill(client: &impl GenericClient, backfill_id: Uuid) -> Result<(), Error> {
    client.execute(include_str!("../../sql/backfill_start.sql"), &[&backfill_id]).await?;
    Ok(())
}

/// Ends it, with an error or as done, unless it was cancelled.
///
/// # Errors
/// What Postgres said.
pub async fn end_backfill(client: &impl GenericClient, backfill_id: Uuid, error: Option<&str>) -> Result<(), Error> {
    let state = if error.is_some() { "failed" } else { "done" };
    client.execute(include_str!("../../sql/backfill_end.sql"), &[&backfill_id, &state, &error]).await?;
    Ok(())
}
