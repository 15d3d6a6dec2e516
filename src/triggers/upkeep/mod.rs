//! Looks after the tables of live triggers while this node captures: gives new partitions their identity, takes a table
//! out of the publication before it breaks the application's writes, and says in `walhook.trigger_status` what keeps a
//! trigger from working as it was defined.
//!
//! This looks at the catalogue as it is now, because what matters is what will happen to the next writes. What already
//! happened is read by what the WAL says about it (`matching`).

mod diagnosis;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use deadpool_postgres::Transaction;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::IsolationLevel;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use self::diagnosis::{Action, Found, Given};
use super::publication::{self, LOCK_WAIT_SHORT, set_lock_wait};
use super::published::{self, Member};
use super::table::{self, Table, quote};
use super::{Catalogue, Error, Inconsistency, stored};
use crate::capture;
use crate::matching::Watch;
use crate::model::{Definition, TableName};

const EVERY: Duration = Duration::from_secs(5);
/// For what is not urgent: the application's writers queue behind us for no longer.
const LOCK_WAIT_BRIEF: Duration = Duration::from_millis(100);
/// A round that changed something is followed by another one, which sees what became of it.
const ROUNDS_IN_A_ROW: u32 = 3;

/// A live trigger that watches a table.
struct Watched {
    id: Uuid,
    name: String,
    relation: u32,
    definition: Definition,
    /// The columns that tell rows apart, as they were called when it was made.
    key: Vec<String>,
    /// What its table is called now, if it was not dropped.
    table: Option<TableName>,
}

/// What was said so far.
#[derive(Default)]
struct Said {
    /// The last report that was written, by trigger; `None` before the first.
    problems: Option<BTreeMap<Uuid, String>>,
    /// Names, for messages about triggers that work again.
    names: HashMap<Uuid, String>,
    /// Tables and partitions on which an action failed.
    failed: HashSet<u32>,
    /// The partitions of each table when the publication was last renewed.
    partitions: HashMap<u32, Vec<u32>>,
    /// Whether the last renewal failed.
    renewal_failed: bool,
}

impl Catalogue {
    /// Runs until stopped. Acts only while this node captures, so that one node does.
    pub async fn look_after(&self, captured: watch::Receiver<capture::State>, stop: CancellationToken) {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut said = Said::default();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.changed.notified() => {}
                _ = tick.tick() => {}
            }
            if *captured.borrow() != capture::State::Streaming {
                said.problems = None;
                said.partitions.clear();
                continue;
            }
            let rounds = async {
                let mut rounds = 0;
                while self.round(&mut said).await? && rounds < ROUNDS_IN_A_ROW {
                    rounds += 1;
                }
                Ok::<(), Error>(())
            };
            tokio::select! {
                () = stop.cancelled() => return,
                // What is wrong with the connection, capture says as well.
                result = rounds => if let Err(error) = result { debug!("tables could not be looked after: {error}") },
            }
        }
    }

    /// Looks at every table, acts, reports. Returns whether anything was changed.
    async fn round(&self, said: &mut Said) -> Result<bool, Error> {
        let mut client = self.pool.get().await?;
        // One snapshot: a table that is seen published, as before a trigger's deletion, and with the identity it has
        // after it, would be given FULL again.
        let snapshot = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
        let transaction = snapshot.start().await?;
        let source_id = self.catalogue_id(&*transaction).await?;
        let watched = self.watched(&transaction, source_id).await?;
        let chosen = transaction.query(include_str!("../../../sql/upkeep_changed.sql"), &[&source_id]).await?;
        let chosen: HashSet<u32> = chosen.iter().map(|row| row.get(0)).collect();
        let given = Given { publication: &self.source.publication, policy: self.replica_identity, chosen: &chosen };
        let mut tables: HashMap<u32, Option<Found>> = HashMap::new();
        let mut problems = BTreeMap::new();
        for trigger in &watched {
            if let Entry::Vacant(unknown) = tables.entry(trigger.relation) {
                unknown.insert(self.find(&transaction, trigger).await?);
            }
            let found = tables.get(&trigger.relation).and_then(Option::as_ref);
            let namesake = match (found, trigger.definition.subject.table()) {
                (None, Some(name)) => table::find(&transaction, name).await?.is_some(),
                _ => false,
            };
            if let Some(reason) = diagnosis::problem((&trigger.definition, &trigger.key), found, namesake, &given) {
                problems.insert(trigger.id, reason);
            }
        }
        transaction.commit().await?;
        drop(client);

        let mut acted = self.tell_of_partitions(tables.values().flatten(), said).await;
        for found in tables.values().flatten() {
            for action in diagnosis::actions(found, &given) {
                acted |= self.act(found, action, said).await;
            }
        }
        if !acted {
            self.report(&watched, problems, said).await?;
        }
        Ok(acted)
    }

    async fn watched(&self, transaction: &Transaction<'_>, source_id: i16) -> Result<Vec<Watched>, Error> {
        let rows = transaction.query(include_str!("../../../sql/upkeep_triggers.sql"), &[&source_id]).await?;
        let mut watched = Vec::with_capacity(rows.len());
        for row in rows {
            let definition: Definition = serde_json::from_str(row.get(3))?;
            let (schema, name): (Option<String>, Option<String>) = (row.get(4), row.get(5));
            let table = schema.zip(name).map(|(schema, name)| TableName::new(schema, name));
            // A trigger on custom events has no table.
            let relation: Option<u32> = row.get(2);
            if let Some(relation) = relation.filter(|_| !definition.operations.is_empty()) {
                let (id, name) = (row.get(0), row.get(1));
                let watch: Option<Watch> = row.get::<_, Option<&str>>(6).map(serde_json::from_str).transpose()?;
                let key = match watch {
                    Some(Watch::Table(watch)) => watch.key_columns,
                    Some(Watch::Type(_)) | None => Vec::new(),
                };
                watched.push(Watched { id, name, relation, definition, key, table });
            }
        }
        Ok(watched)
    }

    /// The trigger's table as it is now. `None` where it was dropped.
    async fn find(&self, transaction: &Transaction<'_>, trigger: &Watched) -> Result<Option<Found>, Error> {
        let Some(name) = &trigger.table else { return Ok(None) };
        let table = table::find(transaction, name).await?.filter(|table| table.relation == trigger.relation);
        let Some(table) = table else { return Ok(None) };
        let state = published::read(transaction, &self.source, table.relation).await?;
        // Without the publication nothing streams: capture says so.
        let state = state.ok_or_else(|| {
            let reason = Inconsistency::NoPublication(self.source.publication.clone());
            super::create::inconsistent(&trigger.definition, reason)
        })?;
        Ok(Some(Found { table, state }))
    }

    /// Where the stream does not learn of partitions by itself: makes it look anew when there are others than before,
    /// and once when it began.
    async fn tell_of_partitions(&self, found: impl Iterator<Item = &Found>, said: &mut Said) -> bool {
        let mut renew = None;
        for Found { table, state } in found.filter(|found| found.state.forgets_partitions) {
            let members: Vec<u32> = state.members.iter().map(|member| member.relation).collect();
            if table.is_partitioned() && said.partitions.get(&table.relation) != Some(&members) {
                said.partitions.insert(table.relation, members);
                renew = Some(state.via_root);
            }
        }
        let Some(via_root) = renew else { return false };
        let renewed = self.renew_publication(via_root).await;
        if let Err(error) = &renewed {
            said.partitions.clear();
            if !said.renewal_failed {
                warn!("changes of partitions that were attached may be missed: the publication cannot be set: {error}");
            }
        }
        said.renewal_failed = renewed.is_err();
        renewed.is_ok()
    }

    async fn renew_publication(&self, via_root: bool) -> Result<(), Error> {
        let mut client = self.pool.get().await?;
        let transaction = client.transaction().await?;
        stored::lock_catalogue(&transaction).await?;
        publication::renew(&transaction, &self.source.publication, via_root).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Does what a table needs. An identity that is missing and cannot be set leaves one thing to do.
    async fn act(&self, found: &Found, action: Action, said: &mut Said) -> bool {
        let table = &found.table;
        let (relation, name, done) = match action {
            Action::TakeOut => (table.relation, quote(&table.name), self.take_out(table).await),
            Action::GiveIdentity { member, urgent } => {
                let (relation, name) = (member.relation, member.quoted());
                let done = self.give_identity(table, member, urgent).await;
                if let (Err(error), true) = (&done, urgent) {
                    warn!(table = name, "it has no replica identity and could not be given one: {error}");
                    (table.relation, quote(&table.name), self.take_out(table).await)
                } else {
                    (relation, name, done)
                }
            }
        };
        match done {
            Ok(what) => {
                said.failed.remove(&relation);
                if let Some(what) = what {
                    info!(table = name, "{what}");
                }
                true
            }
            Err(error) => {
                if said.failed.insert(relation) {
                    warn!(table = name, "it needs a replica identity, which could not be set: {error}");
                }
                false
            }
        }
    }

    /// Returns what was done; nothing where it is not needed any more.
    async fn give_identity(&self, table: &Table, member: Member, urgent: bool) -> Result<Option<&'static str>, Error> {
        let mut client = self.pool.get().await?;
        let transaction = client.transaction().await?;
        set_lock_wait(&transaction, if urgent { LOCK_WAIT_SHORT } else { LOCK_WAIT_BRIEF }).await?;
        stored::lock_catalogue(&transaction).await?;
        let published = self.published_members(&transaction, table).await?;
        if !published.iter().any(|now| now.relation == member.relation && now.wants_identity()) {
            return Ok(None);
        }
        let source_id = self.catalogue_id(&*transaction).await?;
        member.give_identity(&transaction, source_id).await?;
        transaction.commit().await?;
        Ok(Some("given a replica identity: it is a new part of a table with triggers, or its own did not do any more"))
    }

    /// Returns what was done; nothing where it is not needed any more.
    async fn take_out(&self, table: &Table) -> Result<Option<&'static str>, Error> {
        let mut client = self.pool.get().await?;
        let transaction = client.transaction().await?;
        set_lock_wait(&transaction, LOCK_WAIT_SHORT).await?;
        stored::lock_catalogue(&transaction).await?;
        if !self.published_members(&transaction, table).await?.iter().any(Member::is_unsafe) {
            return Ok(None);
        }
        publication::take_out(&transaction, &self.source.publication, &table.name).await?;
        transaction.commit().await?;
        Ok(Some(
            "taken out of the publication: without a replica identity the application's UPDATE and DELETE would fail",
        ))
    }

    /// The table and its partitions as they are under the catalogue's lock, if they are published: since they were
    /// looked at, the deletion of their last trigger may have given back what would be set again now.
    async fn published_members(&self, transaction: &Transaction<'_>, table: &Table) -> Result<Vec<Member>, Error> {
        let state = published::read(transaction, &self.source, table.relation).await?;
        Ok(state.filter(|state| state.contains).map(|state| state.members).unwrap_or_default())
    }

    /// Writes what is wrong with which trigger, if that changed, and logs what is new.
    async fn report(
        &self,
        watched: &[Watched],
        problems: BTreeMap<Uuid, String>,
        said: &mut Said,
    ) -> Result<(), Error> {
        if said.problems.as_ref() == Some(&problems) {
            return Ok(());
        }
        let (ids, reasons): (Vec<Uuid>, Vec<&str>) = problems.iter().map(|(id, reason)| (id, reason.as_str())).unzip();
        let client = self.queue.get().await?;
        let source_id = self.queue_id(&**client).await?;
        client.execute(include_str!("../../../sql/upkeep_report.sql"), &[&source_id, &ids, &reasons]).await?;
        let before = said.problems.take().unwrap_or_default();
        said.names = watched.iter().map(|trigger| (trigger.id, trigger.name.clone())).collect();
        let name = |id: &Uuid| said.names.get(id).map_or("", String::as_str);
        for (id, reason) in problems.iter().filter(|(id, reason)| before.get(*id) != Some(*reason)) {
            warn!(trigger = name(id), "degraded: {reason}");
        }
        for id in before.keys().filter(|id| !problems.contains_key(*id) && said.names.contains_key(*id)) {
            info!(trigger = name(id), "works again as defined");
        }
        said.problems = Some(problems);
        Ok(())
    }
}
