//! Sources: who they are, how far capture came, what was lost.

use tokio_postgres::GenericClient;
use uuid::Uuid;

use super::Error;
use super::row::{lsn, pg_lsn};
use crate::model::Lsn;

/// A registered source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// `walhook.source.id`.
    pub id: i16,
    /// The slot it was registered with.
    pub slot: String,
    /// The publication it was registered with.
    pub publication: String,
    /// The cluster it was registered on, in decimal.
    pub system_identifier: String,
}

/// How far capture came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Everything that committed before this is in the log, or made no event. The slot never passes it.
    pub lsn: Lsn,
    /// The log's last seq; 0 where it is empty.
    pub last_seq: i64,
}

/// How a source is registered.
#[derive(Clone, Copy, Debug)]
pub struct Registration<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its slot.
    pub slot: &'a str,
    /// Its publication.
    pub publication: &'a str,
    /// Its cluster, in decimal.
    pub system_identifier: &'a str,
}

/// Gives a source its id in its own catalogue, in its own database.
///
/// # Errors
/// What Postgres said.
pub async fn enrol_source(client: &impl GenericClient, source: Registration<'_>) -> Result<i16, Error> {
    let Registration { name, slot, publication, system_identifier } = source;
    let sql = include_str!("../../sql/source_enrol.sql");
    client.execute(sql, &[&name, &slot, &publication, &system_identifier]).await?;
    // It was made just now, and no row of this table is ever deleted.
    Ok(source_id(client, name).await?.unwrap_or_default())
}

/// The id of a source in this database: in the source's own it is the catalogue's, in the queue's it is the log's.
///
/// # Errors
/// What Postgres said.
pub async fn source_id(client: &impl GenericClient, name: &str) -> Result<Option<i16>, Error> {
    let row = client.query_opt(include_str!("../../sql/source_id.sql"), &[&name]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// The source of this name, if it was captured into this queue before.
///
/// # Errors
/// What Postgres said.
pub async fn find_source(client: &impl GenericClient, name: &str) -> Result<Option<Source>, Error> {
    let row = client.query_opt(include_str!("../../sql/source_find.sql"), &[&name]).await?;
    Ok(row.map(|row| Source {
        id: row.get(0),
        slot: row.get(1),
        publication: row.get(2),
        system_identifier: row.get(3),
    }))
}

/// Registers a source whose slot starts at `start`, or lets a registered one go on with a new slot from there, wherever
/// it was before: the log up to `last_seq` has no say in its progress any more. Returns its id.
///
/// # Errors
/// What Postgres said.
pub async fn register_source(
    client: &impl GenericClient,
    source: Registration<'_>,
    start: Lsn,
    last_seq: i64,
) -> Result<i16, Error> {
    let Registration { name, slot, publication, system_identifier } = source;
    let sql = include_str!("../../sql/source_register.sql");
    let start = pg_lsn(start);
    let row = client.query_one(sql, &[&name, &slot, &publication, &system_identifier, &start, &last_seq]).await?;
    Ok(row.get(0))
}

/// How far capture of a source came.
///
/// # Errors
/// What Postgres said.
pub async fn read_progress(client: &impl GenericClient, source_id: i16) -> Result<Progress, Error> {
    let row = client.query_one(include_str!("../../sql/progress_read.sql"), &[&source_id]).await?;
    Ok(Progress { lsn: lsn(row.get(0)), last_seq: row.get(1) })
}

/// Makes progress durable where no event carries it.
///
/// # Errors
/// What Postgres said.
pub async fn write_progress(client: &impl GenericClient, source_id: i16, progress: Lsn) -> Result<(), Error> {
    client.execute(include_str!("../../sql/progress_write.sql"), &[&source_id, &pg_lsn(progress)]).await?;
    Ok(())
}

/// The reasons of the gaps that nobody has accepted yet.
///
/// # Errors
/// What Postgres said.
pub async fn open_gap(client: &impl GenericClient, source_id: i16) -> Result<Option<String>, Error> {
    Ok(client.query_one(include_str!("../../sql/gap_open.sql"), &[&source_id]).await?.get(0))
}

/// Records that WAL was lost, from the last progress to `to` where that is known. One that is open with the same reason
/// is enough.
///
/// # Errors
/// What Postgres said.
pub async fn record_gap(
    client: &impl GenericClient,
    source_id: i16,
    from: Lsn,
    to: Option<Lsn>,
    reason: &str,
) -> Result<(), Error> {
    let sql = include_str!("../../sql/gap_record.sql");
    client.execute(sql, &[&source_id, &pg_lsn(from), &to.map(pg_lsn), &reason]).await?;
    Ok(())
}

/// Accepts the open gaps; capture goes on at `resumed`.
///
/// # Errors
/// What Postgres said.
pub async fn accept_gaps(client: &impl GenericClient, source_id: i16, resumed: Lsn) -> Result<u64, Error> {
    Ok(client.execute(include_str!("../../sql/gap_accept.sql"), &[&source_id, &pg_lsn(resumed)]).await?)
}

/// Tries to become the one writer of a source's log, for as long as this session lives.
///
/// # Errors
/// What Postgres said.
pub async fn try_capture_lock(client: &impl GenericClient, source_id: i16) -> Result<bool, Error> {
    let row = client.query_one(include_str!("../../sql/capture_lock.sql"), &[&i32::from(source_id)]).await?;
    Ok(row.get(0))
}

/// Says in SQL why a source is not captured (`walhook.source_status`).
///
/// # Errors
/// What Postgres said.
pub async fn note_failure(client: &impl GenericClient, name: &str, reason: &str) -> Result<(), Error> {
    client.execute(include_str!("../../sql/source_failed.sql"), &[&name, &reason]).await?;
    Ok(())
}

/// A source is captured again.
///
/// # Errors
/// What Postgres said.
pub async fn clear_failure(client: &impl GenericClient, name: &str) -> Result<(), Error> {
    client.execute(include_str!("../../sql/source_recovered.sql"), &[&name]).await?;
    Ok(())
}

/// The node that read a source's slot last.
///
/// # Errors
/// What Postgres said.
pub async fn last_reader(client: &impl GenericClient, source_id: i16) -> Result<Option<Uuid>, Error> {
    let row = client.query_opt(include_str!("../../sql/source_reader_find.sql"), &[&source_id]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// Notes the node that reads a source's slot from now on.
///
/// # Errors
/// What Postgres said.
pub async fn note_reader(client: &impl GenericClient, source_id: i16, node: Uuid) -> Result<(), Error> {
    client.execute(include_str!("../../sql/source_reader_note.sql"), &[&source_id, &node]).await?;
    Ok(())
}
