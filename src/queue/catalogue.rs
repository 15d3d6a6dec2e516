//! The catalogue of triggers as the queue knows it. `triggers` writes a source's own; the queue has a copy, which
//! follows it at the place where capture stands, and sooner where the API says so.

use std::collections::HashMap;

use tokio_postgres::GenericClient;
use uuid::Uuid;

use super::Error;
use super::log::Activation;
use super::notice::{Notice, tell};
use super::row::pg_lsn;
use crate::matching::{Watch, Watches};
use crate::model::{Definition, Lsn, Trigger};

/// One version of a trigger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The trigger.
    pub trigger_id: Uuid,
    /// Counts its definitions, from 1.
    pub version: i32,
    /// A [`Definition`] as JSON.
    pub definition: String,
    /// Whether the trigger ended with it.
    pub ended: bool,
}

/// A trigger as delivery finds it.
#[derive(Clone, Debug)]
pub struct LiveTrigger {
    /// Its source's id in the queue.
    pub source_id: i16,
    /// The trigger.
    pub trigger: Trigger,
    /// Whether its events are held.
    pub paused: bool,
}

/// Every live trigger of every source.
///
/// # Errors
/// [`Error::Corrupt`] for a definition that does not read back; otherwise what Postgres said.
pub async fn triggers(client: &impl GenericClient) -> Result<Vec<LiveTrigger>, Error> {
    let rows = client.query(include_str!("../../sql/trigger_list.sql"), &[]).await?;
    let read = |row: &tokio_postgres::Row| {
        let (id, text): (Uuid, &str) = (row.get(0), row.get(3));
        let definition: Definition = serde_json::from_str(text).map_err(|error| corrupt("trigger", id, &error))?;
        let trigger = Trigger { id, version: row.get(2), definition };
        Ok(LiveTrigger { source_id: row.get(1), trigger, paused: row.get(4) })
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

/// A source's own catalogue, ended triggers too: all of it, or what ever had this name.
///
/// # Errors
/// What Postgres said.
pub async fn read_catalogue(
    source: &impl GenericClient,
    catalogue_id: i16,
    name: Option<&str>,
) -> Result<Vec<Version>, Error> {
    let rows = source.query(include_str!("../../sql/trigger_versions.sql"), &[&catalogue_id, &name]).await?;
    let read = |row: &tokio_postgres::Row| Version {
        trigger_id: row.get(0),
        version: row.get(1),
        definition: row.get(2),
        ended: row.get(3),
    };
    Ok(rows.iter().map(read).collect())
}

/// Brings the queue's copy to these versions, drops what waits for triggers that ended, and lets dead events go that a
/// trigger does not hold any more. Versions that the queue knows already, or is past, change nothing. The nodes are
/// told once this is committed.
///
/// # Errors
/// What Postgres said.
pub async fn adopt(queue: &impl GenericClient, source_id: i16, versions: &[Version]) -> Result<(), Error> {
    let mut last: HashMap<Uuid, &Version> = HashMap::new();
    for version in versions {
        let known = last.entry(version.trigger_id).or_insert(version);
        if known.version < version.version {
            *known = version;
        }
    }
    if last.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = last.keys().copied().collect();
    let numbers: Vec<i32> = last.values().map(|version| version.version).collect();
    let definitions: Vec<&str> = last.values().map(|version| version.definition.as_str()).collect();
    let ended: Vec<bool> = last.values().map(|version| version.ended).collect();
    let sql = include_str!("../../sql/trigger_adopt.sql");
    queue.execute(sql, &[&source_id, &ids, &numbers, &definitions, &ended]).await?;
    queue.execute(include_str!("../../sql/deferred_pass_on.sql"), &[&ids]).await?;
    let ended: Vec<Uuid> = last.values().filter(|version| version.ended).map(|version| version.trigger_id).collect();
    if !ended.is_empty() {
        queue.execute(include_str!("../../sql/deferred_forget.sql"), &[&ended]).await?;
        queue.execute(include_str!("../../sql/cursor_forget.sql"), &[&ended]).await?;
        queue.execute(include_str!("../../sql/pause_forget.sql"), &[&ended]).await?;
    }
    tell(queue, Notice::Triggers).await
}

/// Puts versions into force that capture passed, in the transaction of the events around them.
///
/// # Errors
/// What Postgres said.
pub async fn activate(queue: &impl GenericClient, source_id: i16, activations: &[Activation]) -> Result<(), Error> {
    if activations.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = activations.iter().map(|activation| activation.trigger_id).collect();
    let versions: Vec<i32> = activations.iter().map(|activation| activation.version).collect();
    let lsns: Vec<_> = activations.iter().map(|activation| pg_lsn(activation.commit_lsn)).collect();
    let watches: Vec<Option<&str>> = activations.iter().map(|activation| activation.watch.as_deref()).collect();
    let sql = include_str!("../../sql/watch_activate.sql");
    queue.execute(sql, &[&source_id, &ids, &versions, &lsns, &watches]).await?;
    // A version of an older release has none: then the queue is in the source's database, where the catalogue is.
    let with_definition = |activation: &Activation| {
        let definition = activation.definition.clone()?;
        let (trigger_id, version, ended) = (activation.trigger_id, activation.version, activation.watch.is_none());
        Some(Version { trigger_id, version, definition, ended })
    };
    let versions: Vec<Version> = activations.iter().filter_map(with_definition).collect();
    adopt(queue, source_id, &versions).await
}

/// The definitions of a source's catalogue that a slot is not shown which starts at `start` in the WAL of this cluster,
/// as activations there.
///
/// # Errors
/// What Postgres said.
pub async fn versions_before(
    source: &impl GenericClient,
    catalogue_id: i16,
    start: Lsn,
    system_identifier: &str,
) -> Result<Vec<Activation>, Error> {
    let sql = include_str!("../../sql/trigger_version_list.sql");
    let rows = source.query(sql, &[&catalogue_id, &pg_lsn(start), &system_identifier]).await?;
    let read = |row: &tokio_postgres::Row| Activation {
        trigger_id: row.get(0),
        version: row.get(1),
        commit_lsn: start,
        watch: row.get(2),
        definition: row.get(3),
    };
    Ok(rows.iter().map(read).collect())
}

fn corrupt(what: &str, id: Uuid, error: &serde_json::Error) -> Error {
    Error::Corrupt { what: format!("{what} {id}"), reason: error.to_string() }
}
