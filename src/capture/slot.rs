//! The publication, the slot and the source's registration, and whether WAL was lost between two runs.

use tokio_postgres::types::PgLsn;
use tracing::{info, warn};

use super::{Error, Options, preflight};
use crate::model::Lsn;
use crate::postgres::{Session, lock_setup, unlock_setup};
use crate::queue::{self, Source};

/// A source that can be streamed.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) source_id: i16,
    pub(super) facts: preflight::Facts,
}

/// A slot as the server shows it.
struct Slot {
    plugin: Option<String>,
    here: bool,
    confirmed: Option<Lsn>,
    lost: bool,
    /// Why, where the server says it.
    invalidation: Option<String>,
}

/// Makes what is missing and finds out whether anything was lost. One node at a time does this.
pub(super) async fn prepare(session: &mut Session, options: &Options, accept_gap: bool) -> Result<Prepared, Error> {
    let facts = preflight::check(&**session, options).await?;
    lock_setup(session).await?;
    let result = prepare_locked(session, options, accept_gap, &facts).await;
    unlock_setup(session).await?;
    let source_id = result?;
    queue::write_timeline(&**session, source_id, facts.timeline).await?;
    Ok(Prepared { source_id, facts })
}

async fn prepare_locked(
    session: &Session,
    options: &Options,
    accept_gap: bool,
    facts: &preflight::Facts,
) -> Result<i16, Error> {
    ensure_publication(session, &options.publication).await?;
    let slot = find_slot(session, &options.slot).await?;
    let Some(source) = queue::find_source(&**session, &options.source).await? else {
        return start_anew(session, options, slot, facts).await;
    };
    let progress = queue::read_progress(&**session, source.id).await?;
    let timeline = queue::read_timeline(&**session, source.id).await?;
    if let Some(loss) = find_loss(&source, timeline, slot.as_ref(), options, facts, progress.lsn) {
        let to = slot.as_ref().and_then(|slot| slot.confirmed);
        queue::record_gap(&**session, source.id, progress.lsn, to, &loss).await?;
    }
    match queue::open_gap(&**session, source.id).await? {
        None => Ok(source.id),
        Some(reason) if !accept_gap => Err(Error::Gap { reason, from: progress.lsn.to_string() }),
        Some(reason) => {
            warn!(source = options.source, "accepting the gap after {}: {reason}", progress.lsn);
            go_on_after_gap(session, options, &source, slot, facts).await
        }
    }
}

/// What is wrong with the slot of a source that walhook has captured before; `None` when nothing was lost.
fn find_loss(
    source: &Source,
    timeline: Option<i32>,
    slot: Option<&Slot>,
    options: &Options,
    facts: &preflight::Facts,
    progress: Lsn,
) -> Option<String> {
    let name = &options.slot;
    if source.system_identifier != facts.system_identifier {
        return Some(format!(
            "this is another database cluster (system identifier {}) than the one captured so far ({})",
            facts.system_identifier, source.system_identifier
        ));
    }
    if let Some(captured) = timeline.filter(|captured| *captured != facts.timeline) {
        return Some(format!(
            "this server writes timeline {} and timeline {captured} was captured so far: a standby was promoted or a \
             backup restored, and what was captured last may not have happened here",
            facts.timeline
        ));
    }
    if source.slot != *name {
        return Some(format!("slot {name} is not the one that was read so far, which is --slot {}", source.slot));
    }
    match slot {
        None => Some(format!("slot {name} is missing though walhook had one")),
        Some(slot) if slot.lost => {
            let reason = match slot.invalidation.as_deref() {
                // Before version 17 nothing else can happen to a slot on a primary.
                None | Some("wal_removed") => "max_slot_wal_keep_size was too small",
                Some("idle_timeout") => "nobody read it for as long as idle_replication_slot_timeout",
                Some(other) => other,
            };
            Some(format!("slot {name} lost the WAL it needs ({reason})"))
        }
        // Progress is durable before the slot is moved, so only somebody else can have moved it further.
        Some(slot) if slot.confirmed.is_some_and(|confirmed| confirmed > progress) => Some(format!(
            "slot {name} was recreated or moved on without walhook: it stands at {}",
            slot.confirmed.unwrap_or_default()
        )),
        Some(_) => None,
    }
}

/// The first run on a source. A slot that is there already was made for walhook by the operator.
async fn start_anew(
    session: &Session,
    options: &Options,
    slot: Option<Slot>,
    facts: &preflight::Facts,
) -> Result<i16, Error> {
    let start = match slot {
        Some(slot) => check_usable(&slot, &options.slot)?,
        None => create_slot(session, &options.slot).await?,
    };
    register(session, options, facts, start).await
}

async fn go_on_after_gap(
    session: &Session,
    options: &Options,
    source: &Source,
    slot: Option<Slot>,
    facts: &preflight::Facts,
) -> Result<i16, Error> {
    let start = match slot {
        Some(slot) if slot.lost => {
            session.execute(include_str!("../../sql/slot_drop.sql"), &[&options.slot]).await?;
            create_slot(session, &options.slot).await?
        }
        Some(slot) => check_usable(&slot, &options.slot)?,
        None => create_slot(session, &options.slot).await?,
    };
    let id = register(session, options, facts, start).await?;
    queue::accept_gaps(&**session, source.id, start).await?;
    if source.slot != options.slot && find_slot(session, &source.slot).await?.is_some() {
        let old = postgres_protocol::escape::escape_literal(&source.slot);
        warn!(
            source = options.source,
            "slot {} is not read any more and keeps WAL: run  SELECT pg_drop_replication_slot({old});", source.slot
        );
    }
    Ok(id)
}

async fn register(session: &Session, options: &Options, facts: &preflight::Facts, start: Lsn) -> Result<i16, Error> {
    let Options { source, slot, publication, .. } = options;
    let id = queue::register_source(&**session, source, slot, publication, &facts.system_identifier, start).await?;
    // The slot may start behind definitions that nobody saw in the WAL.
    queue::activate_all(&**session, id, start).await?;
    info!(source, slot, publication, "capture of this source starts at {start}");
    Ok(id)
}

async fn find_slot(session: &Session, name: &str) -> Result<Option<Slot>, Error> {
    let row = session.query_opt(include_str!("../../sql/slot_find.sql"), &[&name]).await?;
    Ok(row.map(|row| Slot {
        plugin: row.get(0),
        here: row.get::<_, Option<bool>>(1).unwrap_or(false),
        confirmed: row.get::<_, Option<PgLsn>>(2).map(|lsn| Lsn(lsn.into())),
        lost: row.get::<_, Option<&str>>(3) == Some("lost"),
        invalidation: row.get(4),
    }))
}

fn check_usable(slot: &Slot, name: &str) -> Result<Lsn, Error> {
    let plugin = slot.plugin.as_deref().unwrap_or("none (a physical slot)");
    if plugin != "pgoutput" {
        return Err(Error::Unusable(format!(
            "slot {name} uses plugin {plugin}, walhook needs pgoutput: choose another name with --slot"
        )));
    }
    if !slot.here {
        return Err(Error::Unusable(format!(
            "slot {name} belongs to another database of this server: choose another name with --slot"
        )));
    }
    slot.confirmed.ok_or_else(|| {
        Error::Unusable(format!("slot {name} is still being made by somebody else: wait, or choose another name"))
    })
}

async fn create_slot(session: &Session, name: &str) -> Result<Lsn, Error> {
    info!(slot = name, "making the replication slot; this waits for the transactions that run now");
    let row = session.query_one(include_str!("../../sql/slot_create.sql"), &[&name]).await?;
    Ok(Lsn(row.get::<_, PgLsn>(0).into()))
}

/// The publication holds walhook's own `trigger_version` from the start: the catalogue's changes come through the WAL
/// in order with everybody else's.
async fn ensure_publication(session: &Session, name: &str) -> Result<(), Error> {
    let quoted = postgres_protocol::escape::escape_identifier(name);
    let sql = include_str!("../../sql/publication_find.sql");
    let row = match session.query_opt(sql, &[&name]).await? {
        Some(row) => row,
        None => {
            let create = format!(
                "create publication {quoted} for table walhook.trigger_version with (publish_via_partition_root = true)"
            );
            session.batch_execute(&create).await?;
            session.query_one(sql, &[&name]).await?
        }
    };
    let (all_tables, publishes_rows, via_root): (bool, bool, bool) = (row.get(0), row.get(1), row.get(2));
    if !publishes_rows {
        return Err(Error::Unusable(format!(
            "publication {name} leaves operations out: run  \
             ALTER PUBLICATION {quoted} SET (publish = 'insert, update, delete, truncate');"
        )));
    }
    if !via_root {
        warn!(
            publication = name,
            "it publishes partitions under their own names; events of partitioned tables need  \
             ALTER PUBLICATION {quoted} SET (publish_via_partition_root = true);"
        );
    }
    if row.get::<_, bool>(4) {
        let publish = format!("ALTER PUBLICATION {quoted} SET (publish_generated_columns = stored);");
        if let Err(error) = session.batch_execute(&publish).await {
            let error = crate::postgres::Error::from(error);
            warn!(
                publication = name,
                "it leaves generated columns out, and this role cannot change it ({error}): run  {publish}"
            );
        }
    }
    if !all_tables && !row.get::<_, bool>(3) {
        let add = format!("alter publication {quoted} add table walhook.trigger_version");
        session.batch_execute(&add).await.map_err(|error| {
            Error::Unusable(format!(
                "publication {name} lacks walhook's catalogue and this role cannot add it ({}): run  \
                 ALTER PUBLICATION {quoted} ADD TABLE walhook.trigger_version;",
                crate::postgres::Error::from(error)
            ))
        })?;
    }
    Ok(())
}
