//! Reading the catalogue of triggers. `triggers` writes it.

use tokio_postgres::GenericClient;
use uuid::Uuid;

use super::Error;
use super::row::pg_lsn;
use crate::matching::{Watch, Watches};
use crate::model::{Definition, Lsn, Trigger};

/// Every live trigger with the id of its source.
///
/// # Errors
/// [`Error::Corrupt`] for a definition that does not read back; otherwise what Postgres said.
pub async fn triggers(client: &impl GenericClient) -> Result<Vec<(i16, Trigger)>, Error> {
    let rows = client.query(include_str!("../../sql/trigger_list.sql"), &[]).await?;
    let read = |row: &tokio_postgres::Row| {
        let (id, text): (Uuid, &str) = (row.get(0), row.get(3));
        let definition: Definition = serde_json::from_str(text).map_err(|error| corrupt("trigger", id, &error))?;
        Ok((row.get(1), Trigger { id, version: row.get(2), definition }))
    };
    rows.iter().map(read).collect()
}

/// What was watched at the place where capture of this source stands.
///
/// # Errors
/// [`Error::Corrupt`] for a watch that does not read back; otherwise what Postgres said.
pub async fn active_watches(client: &impl GenericClient, source_id: i16) -> Result<Watches, Error> {
    let mut watches = Watches::default();
    for row in client.query(include_str!("../../sql/watch_active.sql"), &[&source_id]).await? {
        let (id, text): (Uuid, Option<&str>) = (row.get(0), row.get(2));
        let watch: Option<Watch> =
            text.map(serde_json::from_str).transpose().map_err(|error| corrupt("watch of trigger", id, &error))?;
        watches.activate(id, row.get(1), watch);
    }
    Ok(watches)
}

/// Puts every definition made so far into force, for a slot that starts at `start`.
///
/// # Errors
/// What Postgres said.
pub async fn activate_all(client: &impl GenericClient, source_id: i16, start: Lsn) -> Result<(), Error> {
    client.execute(include_str!("../../sql/watch_activate_all.sql"), &[&source_id, &pg_lsn(start)]).await?;
    Ok(())
}

fn corrupt(what: &str, id: Uuid, error: &serde_json::Error) -> Error {
    Error::Corrupt { what: format!("{what} {id}"), reason: error.to_string() }
}
