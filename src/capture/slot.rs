//! The publication, the slot and the source's registration, and whether WAL was lost between two runs.

use tokio_postgres::types::PgLsn;
use tracing::{info, warn};

use super::session::ended;
use super::{Error, Options, preflight};
use crate::model::Lsn;
use crate::postgres::{self, Session, lock_setup, unlock_setup};
use crate::queue::{self, Progress, Registration, Source};

/// A source that can be streamed.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    /// The source's id in its own catalogue.
    pub(super) catalogue_id: i16,
    /// The source's id in the queue.
    pub(super) source_id: i16,
    pub(super) facts: preflight::Facts,
}

/// One with a source's database, one with its queue's, which may be the same.
pub(super) struct Sessions {
    pub(super) source: Session,
    pub(super) queue: Session,
}

impl Sessions {
    /// Opens both.
    pub(super) async fn open(options: &Options, application_name: &str) -> Result<Self, Error> {
        let source = postgres::connect(&options.database, &format!("{application_name} control")).await?;
        let queue = postgres::connect(&options.queue, application_name).await?;
        Ok(Sessions { source, queue })
    }
}

/// A slot as the server shows it.
pub(super) struct Slot {
    plugin: Option<String>,
    here: bool,
    pub(super) confirmed: Option<Lsn>,
    lost: bool,
    /// Why, where the server says it.
    invalidation: Option<String>,
}

/// In the reason of a gap where there was no publication.
const UNPUBLISHED: &str = "there was no publication ";

/// Makes what is missing and finds out whether anything was lost. One node at a time does this.
pub(super) async fn prepare(sessions: &Sessions, options: &Options, accept_gap: bool) -> Result<Prepared, Error> {
    let facts = preflight::check(&*sessions.source, options).await?;
    lock_setup(&sessions.source).await?;
    let result = prepare_locked(sessions, options, accept_gap, &facts).await;
    // After a failure the session may be in a transaction that can only end; then the lock goes with the session.
    let unlocked = unlock_setup(&sessions.source).await;
    let (catalogue_id, source_id) = result?;
    unlocked?;
    queue::write_timeline(&*sessions.queue, source_id, facts.timeline).await?;
    Ok(Prepared { catalogue_id, source_id, facts })
}

async fn prepare_locked(
    sessions: &Sessions,
    options: &Options,
    accept_gap: bool,
    facts: &preflight::Facts,
) -> Result<(i16, i16), Error> {
    let Sessions { source: session, queue } = sessions;
    let catalogue_id = queue::enrol_source(&**session, registration(options, facts)).await?;
    let known = queue::find_source(&**queue, &options.source).await?;
    if let (Some(source), None) = (&known, find_publication(session, &options.publication).await?) {
        record_unpublished(queue, source.id, options).await?;
    }
    // The slot before progress: what is durable in the queue only grows.
    let slot = find_slot(session, &options.slot).await?;
    let start = Start { sessions, options, facts, catalogue_id };
    let Some(source) = known else {
        ensure_publication(session, &options.publication).await?;
        return Ok((catalogue_id, start.anew(slot).await?));
    };
    let progress = queue::read_progress(&**queue, source.id).await?;
    let timeline = queue::read_timeline(&**queue, source.id).await?;
    if let Some(loss) = find_loss(&source, timeline, slot.as_ref(), options, facts, progress.lsn) {
        // Otherwise it is where capture will go on, which is not known yet.
        let moved = slot.as_ref().filter(|slot| !slot.lost).and_then(|slot| slot.confirmed);
        let to = moved.filter(|confirmed| *confirmed > progress.lsn);
        queue::record_gap(&**queue, source.id, progress.lsn, to, &loss).await?;
    }
    match queue::open_gap(&**queue, source.id).await? {
        None => {
            ensure_publication(session, &options.publication).await?;
            slot.as_ref().map(|slot| check_usable(slot, &options.slot)).transpose()?;
            // Whatever the API could not tell the queue while it was away.
            let versions = queue::read_catalogue(&**session, catalogue_id, None).await?;
            queue::adopt(&**queue, source.id, &versions).await?;
        }
        Some(reason) if !accept_gap => return Err(Error::Gap { reason, from: progress.lsn.to_string() }),
        Some(reason) => {
            // Only now: another node that streams without it is to find that out.
            ensure_publication(session, &options.publication).await?;
            warn!(source = options.source, "accepting the gap after {}: {reason}", progress.lsn);
            // Only there do the positions of the log mean what they meant.
            let same_wal = source.system_identifier == facts.system_identifier && timeline == Some(facts.timeline);
            let at_least = if same_wal { progress.lsn } else { Lsn::default() };
            let anew = reason.contains(UNPUBLISHED);
            start.after_gap(&source, slot, anew, Progress { lsn: at_least, ..progress }).await?;
        }
    }
    Ok((catalogue_id, source.id))
}

/// Records that there was no publication, as a stream said that met this in the WAL.
pub(super) async fn note_unpublished(options: &Options, source_id: i16) -> Result<(), Error> {
    record_unpublished(&postgres::connect(&options.queue, "walhook setup").await?, source_id, options).await
}

async fn record_unpublished(queue: &Session, source_id: i16, options: &Options) -> Result<(), Error> {
    let progress = queue::read_progress(&**queue, source_id).await?;
    let reason = format!(
        "{UNPUBLISHED}{}: what was written without it was not streamed, and the triggers on tables that \
         walhook.trigger_status will name have to be replaced",
        options.publication
    );
    Ok(queue::record_gap(&**queue, source_id, progress.lsn, None, &reason).await?)
}

fn registration<'a>(options: &'a Options, facts: &'a preflight::Facts) -> Registration<'a> {
    Registration {
        name: &options.source,
        slot: &options.slot,
        publication: &options.publication,
        system_identifier: &facts.system_identifier,
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

/// Where capture of a source begins: for the first time, or behind a gap.
struct Start<'a> {
    sessions: &'a Sessions,
    options: &'a Options,
    facts: &'a preflight::Facts,
    catalogue_id: i16,
}

impl Start<'_> {
    /// The first run on a source. A slot that is there already was made for walhook by the operator, or served another
    /// queue before.
    async fn anew(&self, slot: Option<Slot>) -> Result<i16, Error> {
        let start = match slot {
            Some(slot) => check_usable(&slot, &self.options.slot)?,
            None => self.create_slot().await?,
        };
        self.register(start, None).await
    }

    /// `anew`: also where the slot could be read on. What was written before a publication was made cannot be decoded
    /// with it.
    async fn after_gap(&self, source: &Source, slot: Option<Slot>, anew: bool, before: Progress) -> Result<i16, Error> {
        let session = &self.sessions.source;
        let start = match slot {
            Some(slot) if slot.lost || anew => {
                if !slot.lost {
                    // Another database's would be dropped as well.
                    check_usable(&slot, &self.options.slot)?;
                }
                session.execute(include_str!("../../sql/slot_drop.sql"), &[&self.options.slot]).await?;
                self.create_slot().await?
            }
            Some(slot) => check_usable(&slot, &self.options.slot)?,
            None => self.create_slot().await?,
        };
        // A slot that was made in advance starts with what is in the log already.
        let id = self.register(start.max(before.lsn), Some(before.last_seq)).await?;
        debug_assert_eq!(source.id, id);
        if source.slot != self.options.slot && find_slot(session, &source.slot).await?.is_some() {
            let old = postgres_protocol::escape::escape_literal(&source.slot);
            warn!(
                source = self.options.source,
                "slot {} is not read any more and keeps WAL: run  SELECT pg_drop_replication_slot({old});", source.slot
            );
        }
        Ok(id)
    }

    async fn create_slot(&self) -> Result<Lsn, Error> {
        let name = &self.options.slot;
        info!(slot = name, "making the replication slot; this waits for the transactions that run now");
        let row = self.sessions.source.query_one(include_str!("../../sql/slot_create.sql"), &[name]).await?;
        Ok(Lsn(row.get::<_, PgLsn>(0).into()))
    }

    /// In one transaction of the queue: where it starts, every definition made before, and that the gap is accepted.
    /// Behind a gap `last_seq` is the log's end before it.
    async fn register(&self, start: Lsn, last_seq: Option<i64>) -> Result<i16, Error> {
        // The slot may start behind definitions that it does not show, and ahead of others that it will.
        let (source, wal) = (&*self.sessions.source, &self.facts.system_identifier);
        let versions = queue::versions_before(source, self.catalogue_id, start, wal).await?;
        let catalogue = queue::read_catalogue(&*self.sessions.source, self.catalogue_id, None).await?;
        let queue = &self.sessions.queue;
        queue.batch_execute("begin").await?;
        let id = queue::register_source(&**queue, registration(self.options, self.facts), start, last_seq.unwrap_or(0))
            .await?;
        queue::adopt(&**queue, id, &catalogue).await?;
        queue::activate(&**queue, id, &versions).await?;
        if last_seq.is_some() {
            queue::accept_gaps(&**queue, id, start).await?;
        }
        queue.batch_execute("commit").await?;
        let Options { source, slot, publication, .. } = self.options;
        info!(source, slot, publication, "capture of this source starts at {start}");
        Ok(id)
    }
}

pub(super) async fn find_slot(session: &Session, name: &str) -> Result<Option<Slot>, Error> {
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

async fn find_publication(session: &Session, name: &str) -> Result<Option<tokio_postgres::Row>, Error> {
    Ok(session.query_opt(include_str!("../../sql/publication_find.sql"), &[&name]).await?)
}

/// The publication holds walhook's own `trigger_version` from the start: the catalogue's changes come through the WAL
/// in order with everybody else's.
async fn ensure_publication(session: &Session, name: &str) -> Result<(), Error> {
    let quoted = postgres_protocol::escape::escape_identifier(name);
    let row = match find_publication(session, name).await? {
        Some(row) => row,
        None => {
            let create = format!(
                "create publication {quoted} for table walhook.trigger_version with (publish_via_partition_root = true)"
            );
            session.batch_execute(&create).await?;
            find_publication(session, name).await?.ok_or_else(|| ended("the publication was dropped again"))?
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
                postgres::Error::from(error)
            ))
        })?;
    }
    Ok(())
}
