//! Triggers as the catalogue holds them.

use deadpool_postgres::Transaction;
use postgres_protocol::escape::escape_identifier;
use uuid::Uuid;

use super::Error;
use crate::model::Definition;

/// A live trigger.
#[derive(Debug)]
pub(super) struct Stored {
    pub id: Uuid,
    pub version: i32,
    /// The table's OID; none for a trigger on custom events.
    pub relation: Option<u32>,
    /// Whether the table has not been dropped since.
    pub relation_exists: bool,
    pub definition: Definition,
}

/// The live trigger of this name. Its row stays locked against deletion to the end of the transaction.
pub(super) async fn find(transaction: &Transaction<'_>, source_id: i16, name: &str) -> Result<Option<Stored>, Error> {
    // Postgres cannot take a NUL in a text, and no trigger has one in its name.
    if name.contains('\0') {
        return Ok(None);
    }
    let Some(row) = transaction.query_opt(include_str!("../../sql/trigger_find.sql"), &[&source_id, &name]).await?
    else {
        return Ok(None);
    };
    Ok(Some(Stored {
        id: row.get("id"),
        version: row.get("version"),
        relation: row.get("relation"),
        relation_exists: row.get("relation_exists"),
        definition: serde_json::from_str(row.get("definition"))?,
    }))
}

/// Lets one caller at a time change the catalogue, to the end of the transaction.
pub(super) async fn lock_catalogue(transaction: &Transaction<'_>) -> Result<(), Error> {
    Ok(transaction.batch_execute(include_str!("../../sql/catalogue_lock.sql")).await?)
}

/// Tells capture what to watch from this transaction's commit on; no watch ends the trigger. The definition goes along
/// for deliveries, which may have their queue in another database.
///
/// # Errors
/// [`Error::Unpublished`]; otherwise what Postgres said.
pub(super) async fn insert_version(
    transaction: &Transaction<'_>,
    (trigger_id, version): (Uuid, i32),
    source_id: i16,
    watch: Option<&str>,
    definition: &str,
    publication: &str,
) -> Result<(), Error> {
    let sql = include_str!("../../sql/trigger_version_insert.sql");
    let row =
        transaction.query_one(sql, &[&trigger_id, &version, &source_id, &watch, &definition, &publication]).await?;
    // Capture would never hear of it, also when the table is published again.
    if row.get(0) { Ok(()) } else { Err(Error::Unpublished(escape_identifier(publication))) }
}
