//! The characters that a database has.

use tokio_postgres::GenericClient;

use super::Error;

/// Whether the database takes every character that there is. One in another encoding than UTF-8 refuses what it has
/// not, and with it everything that was to be written beside that (SQLSTATE 22P05).
///
/// # Errors
/// What Postgres said.
pub async fn has_all_characters(client: &impl GenericClient) -> Result<bool, Error> {
    let row = client.query_one(include_str!("../../sql/server_encoding.sql"), &[]).await?;
    Ok(knows_all_characters(row.get(0)))
}

/// Whether a database of this encoding takes every character.
pub(super) fn knows_all_characters(encoding: &str) -> bool {
    matches!(encoding, "UTF8" | "SQL_ASCII")
}
