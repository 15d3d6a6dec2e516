//! How far deliveries are behind, for whoever watches.

use tokio_postgres::Transaction;

use super::Error;

/// A trigger's oldest event that could be sent by now.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// Its source's name.
    pub source: String,
    /// Its name.
    pub trigger: String,
    /// How long the event has waited; 0 where there is none.
    pub seconds: f64,
}

/// Of every live trigger. The transaction ends by itself where that takes more than a second.
///
/// # Errors
/// What Postgres said.
pub async fn oldest_waiting(transaction: &Transaction<'_>) -> Result<Vec<Waiting>, Error> {
    transaction.batch_execute("set local statement_timeout = '1s'").await?;
    let rows = transaction.query(include_str!("../../sql/waiting_oldest.sql"), &[]).await?;
    let seconds = |row: &tokio_postgres::Row| row.get::<_, Option<f64>>(2).unwrap_or(0.0);
    Ok(rows.iter().map(|row| Waiting { source: row.get(0), trigger: row.get(1), seconds: seconds(row) }).collect())
}
