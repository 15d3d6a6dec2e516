//! What the capturing node says of its slot, and on which timeline it captured.

use tokio_postgres::GenericClient;

use super::Error;
use super::row::pg_lsn;
use crate::model::Lsn;

/// A slot as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotStatus {
    /// The server's timeline.
    pub timeline: i32,
    /// As `pg_replication_slots` has it.
    pub wal_status: Option<String>,
    /// What is acknowledged.
    pub confirmed: Option<Lsn>,
    /// WAL after that, in bytes.
    pub lag: Option<i64>,
    /// WAL that the server keeps for the slot, in bytes.
    pub retained: Option<i64>,
    /// How much it may keep, in bytes; `None` where there is no limit.
    pub limit: Option<i64>,
    /// What to do before the slot is lost.
    pub warning: Option<String>,
}

/// The timeline that was captured so far, if that was noted.
///
/// # Errors
/// What Postgres said.
pub async fn read_timeline(client: &impl GenericClient, source_id: i16) -> Result<Option<i32>, Error> {
    let row = client.query_opt(include_str!("../../sql/timeline_read.sql"), &[&source_id]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// Notes the timeline that is captured from now on.
///
/// # Errors
/// What Postgres said.
pub async fn write_timeline(client: &impl GenericClient, source_id: i16, timeline: i32) -> Result<(), Error> {
    client.execute(include_str!("../../sql/timeline_write.sql"), &[&source_id, &timeline]).await?;
    Ok(())
}

/// Notes how the slot is, for view `walhook.source_status`.
///
/// # Errors
/// What Postgres said.
pub async fn write_slot_status(client: &impl GenericClient, source_id: i16, status: &SlotStatus) -> Result<(), Error> {
    let SlotStatus { timeline, wal_status, confirmed, lag: _, retained, limit, warning } = status;
    let confirmed = confirmed.map(pg_lsn);
    let sql = include_str!("../../sql/slot_status_write.sql");
    client.execute(sql, &[&source_id, timeline, wal_status, &confirmed, retained, limit, warning]).await?;
    Ok(())
}
