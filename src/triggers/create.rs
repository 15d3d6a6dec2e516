//! Creating and replacing triggers.

use std::time::{Duration, Instant};

use deadpool_postgres::Transaction;
use uuid::Uuid;

use super::publication::{self, Plan, set_lock_wait};
use super::published;
use super::stored::{self, Stored};
use super::table::{self, Table};
use super::{Catalogue, Error, Inconsistency, resolvable};
use crate::matching::{TableWatch, TypeWatch, Watch};
use crate::model::{Definition, Subject, TableName, Trigger};
use crate::postgres::LOCK_NOT_AVAILABLE;

/// How long locks are tried for in all.
const TRY_FOR: Duration = Duration::from_secs(30);
/// The first pause between two tries; each next one is twice as long, up to [`LONGEST_PAUSE`]. The application's
/// writers, which queue behind a waiting lock, get through meanwhile.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// Other changes of the catalogue hold its lock while they wait for a table.
const CATALOGUE_LOCK_WAIT: Duration = Duration::from_secs(5);

impl Catalogue {
    /// Makes a trigger, or with `replace` gives the trigger of this name another definition. Publication, replica
    /// identity and catalogue change in one transaction. Once this returns, every later commit counts; a change
    /// committed before does not. Safe to drop: then either all of it happened or nothing.
    ///
    /// # Errors
    /// Everything in [`Error`] that concerns tables, names and definitions, in the order of reference/hasura.md 1.3;
    /// [`Error::Locked`] after half a minute of waiting for the table.
    pub async fn create(&self, definition: Definition, replace: bool) -> Result<Trigger, Error> {
        let (started, mut pause) = (Instant::now(), FIRST_PAUSE);
        let trigger = loop {
            match self.try_create(&definition, replace).await {
                // Lock not available, or chosen as the victim of a deadlock: nothing was done, the writers go first.
                Err(error) if matches!(error.sqlstate(), Some(LOCK_NOT_AVAILABLE | "40P01")) => {
                    if started.elapsed() + pause > TRY_FOR {
                        let seconds = started.elapsed().as_secs();
                        return Err(Error::Locked { subject: definition.subject, seconds });
                    }
                }
                result => break result?,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        };
        self.tell(&trigger.definition.name).await;
        Ok(trigger)
    }

    async fn try_create(&self, definition: &Definition, replace: bool) -> Result<Trigger, Error> {
        let mut client = self.pool.get().await?;
        let transaction = client.transaction().await?;
        set_lock_wait(&transaction, CATALOGUE_LOCK_WAIT).await?;
        stored::lock_catalogue(&transaction).await?;

        let source_id = self.catalogue_id(&*transaction).await?;
        let existing = stored::find(&transaction, source_id, &definition.name).await?;
        let (existing, watch) = match &definition.subject {
            Subject::Table(name) => {
                let table = self.find_table(&transaction, definition, name).await?;
                let existing = check_name(definition, existing, replace, &table)?;
                (existing, self.prepare_table(&transaction, source_id, definition, table).await?)
            }
            Subject::Type(name) => {
                let watch = self.prepare_type(definition, existing.as_ref(), replace, name)?;
                (existing, watch)
            }
        };
        let trigger = store(&transaction, (source_id, &self.source.publication), definition, existing, &watch).await?;
        transaction.commit().await?;
        Ok(trigger)
    }

    async fn prepare_table(
        &self,
        transaction: &Transaction<'_>,
        source_id: i16,
        definition: &Definition,
        table: Table,
    ) -> Result<Watch, Error> {
        resolvable::check(definition, &self.environment).map_err(|reason| inconsistent(definition, reason))?;
        let table = self.publish(transaction, source_id, definition, table).await?;
        let watch = TableWatch {
            relation: table.relation,
            table: table.name,
            operations: definition.operations.clone(),
            key_columns: table.key_columns,
            fire_on_unchanged: definition.fire_on_unchanged,
            trigger_on_replication: definition.trigger_on_replication,
            ordering: definition.ordering,
        };
        Ok(Watch::Table(watch))
    }

    /// Custom events need neither table nor publication: logical messages are in every slot's stream.
    fn prepare_type(
        &self,
        definition: &Definition,
        existing: Option<&Stored>,
        replace: bool,
        name: &str,
    ) -> Result<Watch, Error> {
        match existing {
            None if replace => return Err(Error::UnknownTrigger(definition.name.clone())),
            Some(_) if !replace => return Err(Error::Duplicate(definition.name.clone())),
            Some(existing) if existing.definition.subject != definition.subject => return Err(Error::OtherTable),
            _ => {}
        }
        resolvable::check(definition, &self.environment).map_err(|reason| inconsistent(definition, reason))?;
        Ok(Watch::Type(TypeWatch { event_type: name.to_owned() }))
    }

    /// The table, with everything about it checked that needs no look at other triggers.
    async fn find_table(
        &self,
        transaction: &Transaction<'_>,
        definition: &Definition,
        name: &TableName,
    ) -> Result<Table, Error> {
        let found = table::find(transaction, name).await?;
        let table =
            found.ok_or_else(|| Error::UnknownTable { table: name.clone(), origin: self.source.name.clone() })?;
        table.check_watchable().map_err(|reason| inconsistent(definition, reason.into()))?;
        Ok(table)
    }

    /// Brings the table into the publication, with the identity it needs. A trigger that is only invoked needs neither.
    async fn publish(
        &self,
        transaction: &Transaction<'_>,
        source_id: i16,
        definition: &Definition,
        table: Table,
    ) -> Result<Table, Error> {
        if definition.operations.is_empty() {
            return Ok(table);
        }
        let needed = self.plan(transaction, definition, &table).await?;
        if needed.is_empty() {
            return Ok(table);
        }
        let lacks_right = |error: Error| explain_rights(error, definition, &needed);
        needed.take_lock(transaction).await.map_err(lacks_right)?;
        // While we waited, the table may have been dropped, altered or published.
        let table = self.find_table(transaction, definition, &table.name).await?;
        let needed = self.plan(transaction, definition, &table).await?;
        let lacks_right = |error: Error| explain_rights(error, definition, &needed);
        needed.apply(transaction, source_id, table.relation).await.map_err(lacks_right)?;
        Ok(table)
    }

    async fn plan(&self, transaction: &Transaction<'_>, definition: &Definition, table: &Table) -> Result<Plan, Error> {
        let publication = &self.source.publication;
        let state = published::read(transaction, &self.source, table.relation)
            .await?
            .ok_or_else(|| inconsistent(definition, Inconsistency::NoPublication(publication.clone())))?;
        publication::plan(&state, table, &definition.operations, publication, self.replica_identity)
            .map_err(|reason| inconsistent(definition, reason))
    }
}

/// Hasura's order (1.3): a trigger to replace exists, on the same table; columns; the name is free; payload.
fn check_name(
    definition: &Definition,
    existing: Option<Stored>,
    replace: bool,
    table: &Table,
) -> Result<Option<Stored>, Error> {
    if replace {
        let existing = existing.as_ref().ok_or_else(|| Error::UnknownTrigger(definition.name.clone()))?;
        // A renamed table is still the same one; one that was dropped and made again is too.
        let made_again = !existing.relation_exists && existing.definition.subject == definition.subject;
        if existing.relation != Some(table.relation) && !made_again {
            return Err(Error::OtherTable);
        }
    }
    if let Some(column) = table.unknown_column(&definition.operations) {
        return Err(Error::UnknownColumn(column.to_owned()));
    }
    if !replace && existing.is_some() {
        return Err(Error::Duplicate(definition.name.clone()));
    }
    match table.unknown_payload_column(&definition.operations) {
        Some(column) => Err(inconsistent(definition, Inconsistency::PayloadColumn(column.to_owned()))),
        None => Ok(existing),
    }
}

async fn store(
    transaction: &Transaction<'_>,
    (source_id, publication): (i16, &str),
    definition: &Definition,
    existing: Option<Stored>,
    watch: &Watch,
) -> Result<Trigger, Error> {
    let text = serde_json::to_string(definition)?;
    let relation = match watch {
        Watch::Table(watch) => Some(watch.relation),
        Watch::Type(_) => None,
    };
    let (id, version) = match existing {
        Some(existing) => {
            let version = existing.version + 1;
            let sql = include_str!("../../sql/trigger_replace.sql");
            transaction.execute(sql, &[&existing.id, &version, &relation, &text]).await?;
            (existing.id, version)
        }
        None => {
            let (id, version) = (Uuid::new_v4(), 1);
            let sql = include_str!("../../sql/trigger_insert.sql");
            let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
                &[&id, &source_id, &definition.name, &relation, &version, &text];
            transaction.execute(sql, values).await?;
            (id, version)
        }
    };
    let watch = serde_json::to_string(watch)?;
    stored::insert_version(transaction, (id, version), source_id, Some(&watch), &text, publication).await?;
    Ok(Trigger { id, version, definition: definition.clone() })
}

pub(super) fn inconsistent(definition: &Definition, reason: Inconsistency) -> Error {
    let (subject, trigger) = (definition.subject.clone(), definition.name.clone());
    Error::Inconsistent { subject, trigger, reason: Box::new(reason) }
}

/// Insufficient privilege (42501) becomes the statements for somebody who has it. Once they ran, nothing is left to do
/// here, so the same call needs no right.
fn explain_rights(error: Error, definition: &Definition, needed: &Plan) -> Error {
    match &error {
        Error::Database(postgres) if error.sqlstate() == Some("42501") => inconsistent(
            definition,
            Inconsistency::MissingRights { message: postgres.to_string(), statements: needed.statements() },
        ),
        _ => error,
    }
}
