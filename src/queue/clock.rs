//! The clock that times in the queue are read from.

use tokio_postgres::GenericClient;

use super::Error;
use super::row::PgTime;
use crate::model::Timestamp;

/// What the server's clock shows.
///
/// # Errors
/// What Postgres said.
pub async fn server_time(client: &impl GenericClient) -> Result<Timestamp, Error> {
    let row = client.query_one(include_str!("../../sql/server_clock.sql"), &[]).await?;
    Ok(row.get::<_, PgTime>(0).0)
}
