//! Which endpoints are down, for operators.

use tokio_postgres::GenericClient;
use uuid::Uuid;

use super::Error;
use super::row::PgTime;
use crate::model::Timestamp;

/// A trigger whose endpoint is down.
#[derive(Clone, Debug)]
pub struct EndpointDown {
    /// The trigger.
    pub trigger_id: Uuid,
    /// What failed, without any secret.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

/// Writes what view `walhook.endpoints` shows, in place of what this node wrote before.
///
/// # Errors
/// What Postgres said.
pub async fn write_endpoints_down(client: &impl GenericClient, node: Uuid, down: &[EndpointDown]) -> Result<(), Error> {
    let triggers: Vec<Uuid> = down.iter().map(|endpoint| endpoint.trigger_id).collect();
    let reasons: Vec<&str> = down.iter().map(|endpoint| endpoint.reason.as_str()).collect();
    let times: Vec<PgTime> = down.iter().map(|endpoint| PgTime(endpoint.since)).collect();
    let sql = include_str!("../../sql/endpoint_down_write.sql");
    client.execute(sql, &[&node, &triggers, &reasons, &times]).await?;
    Ok(())
}
