//! Changes in, events out.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::custom::CustomTypes;
use super::old_row::{Changed, KeyedPartitions, OldRows};
use super::printer::Printer;
use super::row::{ColumnPlan, Draft, Mask, PrintedRow};
use super::watch::{TableWatch, Watches};
use crate::model::{
    Columns, Event, Lane, Operation, OperationSpec, Ordering, Position, RowHash, Subject, TableName, Timestamp,
    derive_event_id, derive_row_hash, lane_of, trigger_lane,
};
use crate::pgoutput::{Cell, Identity, OldRow, Relation, Tuple, TypeShape, Types};

/// A row change as the decoder gives it.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// A row was inserted.
    Insert(Tuple<'a>),
    /// A row was updated.
    Update(OldRow<'a>, Tuple<'a>),
    /// A row was deleted.
    Delete(OldRow<'a>),
    /// The table was emptied.
    Truncate,
}

/// Where and when a change happened.
#[derive(Clone, Debug)]
pub struct Moment {
    /// Commit LSN and ordinal.
    pub position: Position,
    /// The source transaction.
    pub xid: u32,
    /// The commit's time.
    pub committed_at: Timestamp,
    /// Whether the transaction arrived by replication from elsewhere: it has an origin.
    pub replicated: bool,
    /// What the writer said with `walhook.set_context` before this change.
    pub session_variables: Option<Bytes>,
}

/// Matches changes against the watches in force. Knows the tables that the stream has described so far.
pub struct Matcher {
    pub(super) system: String,
    pub(super) source: String,
    pub(super) watches: Watches,
    pub(super) types: Types,
    pub(super) plans: HashMap<u32, TablePlan>,
    /// Of roots whose partitions are published under their name.
    pub(super) partitions: HashMap<u32, KeyedPartitions>,
    /// Described since the last change, in order.
    described: Vec<u32>,
    custom: CustomTypes,
    pub(super) draft: Draft,
}

/// What one table's watches want, worked out once for all its rows.
pub(super) struct TablePlan {
    pub(super) relation: Relation,
    pub(super) subject: Arc<Subject>,
    pub(super) columns: Vec<ColumnPlan>,
    pub(super) old_rows: OldRows,
    /// Distinct column sets; each is printed at most once a change, however many triggers want it.
    pub(super) masks: Vec<Mask>,
    pub(super) watchers: Vec<Watcher>,
}

pub(super) struct Watcher {
    pub(super) trigger_id: Uuid,
    /// The columns that tell rows apart; `None` where none ever did.
    key: Option<Vec<usize>>,
    /// Whether all events fall into the trigger's lane.
    one_lane: bool,
    insert: Option<OperationPlan>,
    update: Option<OperationPlan>,
    delete: Option<OperationPlan>,
    truncate: bool,
    fire_on_unchanged: bool,
    trigger_on_replication: bool,
}

struct OperationPlan {
    /// For updates: fires only when one of these changed.
    changed: Mask,
    /// Whether columns were asked for that the table does not have any more.
    gone: bool,
    /// Index into [`TablePlan::masks`].
    payload: usize,
}

impl Matcher {
    /// `system` and `source` go into the events' ids.
    pub fn new(system: String, source: String, watches: Watches, types: Types) -> Self {
        let custom = CustomTypes::new(&watches);
        Matcher {
            system,
            source,
            watches,
            types,
            plans: HashMap::new(),
            partitions: HashMap::new(),
            described: Vec::new(),
            custom,
            draft: Draft::default(),
        }
    }

    /// Takes note of a table's description.
    pub fn describe(&mut self, relation: Relation) {
        self.described.push(relation.id);
        let id = relation.id;
        self.plans.insert(id, TablePlan::new(relation, &self.watches, &self.partitions, &mut self.types));
        // Its types may have changed with it.
        self.want_types(id);
    }

    /// To be called for every change of a row that is not fired, and with `None` for what is no change of a row.
    ///
    /// Before the first change of a partition that is published under its root, the stream describes first the root and
    /// then the partition; the change itself names only the root. So this is how the partition's identity is learnt.
    pub fn pass(&mut self, changed: Option<u32>) {
        if let [.., root, partition] = self.described[..]
            && changed == Some(root)
            && let Some(TablePlan { relation, .. }) = self.plans.get(&partition)
        {
            let known = self.partitions.entry(root).or_default();
            if relation.identity == Identity::Full {
                known.remove(&partition);
            } else {
                known.insert(partition, relation.identity_columns());
            }
            if let Some(plan) = self.plans.get_mut(&root) {
                plan.old_rows = OldRows::new(&plan.relation, &plan.columns, self.partitions.get(&root));
            }
        }
        self.described.clear();
    }

    /// The description of a table, if the stream gave one.
    pub fn relation(&self, relation: u32) -> Option<&Relation> {
        self.plans.get(&relation).map(|plan| &plan.relation)
    }

    /// The tables that are watched, as the stream described them.
    pub fn watched_tables(&self) -> impl Iterator<Item = (u32, &TableName)> {
        let watched = self.plans.iter().filter(|(_, plan)| !plan.watchers.is_empty());
        watched.map(|(id, plan)| (*id, &plan.relation.table))
    }

    /// Puts a trigger's version into force for the changes from here on.
    pub fn activate(&mut self, trigger_id: Uuid, version: i32, watch: Option<super::Watch>) {
        self.watches.activate(trigger_id, version, watch);
        self.custom = CustomTypes::new(&self.watches);
        self.plan_anew();
    }

    /// Triggers and types change rarely; planning every known table anew is simpler than finding the one touched.
    fn plan_anew(&mut self) {
        for plan in self.plans.values_mut() {
            *plan = TablePlan::new(plan.relation.clone(), &self.watches, &self.partitions, &mut self.types);
        }
    }

    /// The types to look up in the catalogue and to [`learn`](Self::learn) before the next change.
    pub fn wanted_types(&self) -> &[u32] {
        self.types.wanted()
    }

    /// Wants a watched table's types to be looked up, also those that are known. Returns whether there are any.
    pub fn want_types(&mut self, relation: u32) -> bool {
        let plan = self.plans.get(&relation).filter(|plan| !plan.watchers.is_empty());
        self.types.want(plan.into_iter().flat_map(TablePlan::type_ids));
        !self.types.wanted().is_empty()
    }

    /// Wants the types that can change without a word in the stream to be looked up.
    pub fn doubt_types(&mut self) {
        let changeable = |plan: &&TablePlan| plan.columns.iter().any(|column| column.kind.is_changeable());
        self.types.want(self.plans.values().filter(changeable).flat_map(TablePlan::type_ids));
    }

    /// What the catalogue says of the wanted types: see [`Types::learn`].
    pub fn learn(&mut self, found: Vec<(u32, TypeShape)>) {
        if self.types.learn(found) {
            self.plan_anew();
        }
    }

    /// Appends the events that a change makes. A table that the stream has not described makes none. Returns false when
    /// a value was not what its type, as it is known, prints: the types should be looked up again.
    pub fn fire(&mut self, relation: u32, change: Change<'_>, moment: &Moment, events: &mut Vec<Event>) -> bool {
        if !self.described.is_empty() {
            self.pass(Some(relation));
        }
        let Some(plan) = self.plans.get(&relation) else { return true };
        if plan.watchers.is_empty() {
            return true;
        }
        let change = match change {
            Change::Update(old, new) => Change::Update(plan.old_rows.read(old), new),
            Change::Delete(old) => Change::Delete(plan.old_rows.read(old)),
            Change::Insert(_) | Change::Truncate => change,
        };
        let mut printer = Printer::new(plan, change, &mut self.draft);
        let mut sure = true;
        for watcher in &plan.watchers {
            if moment.replicated && !watcher.trigger_on_replication {
                continue;
            }
            let Some((operation, payload, undecided)) = watcher.wants(plan, change) else { continue };
            let (old, new) = match payload {
                Some(payload) => (printer.old(payload), printer.new_row(payload)),
                None => (None, None),
            };
            sure &= old.as_ref().is_none_or(|row| row.sure) && new.as_ref().is_none_or(|row| row.sure);
            let old_partial = old.as_ref().is_some_and(|row| row.partial);
            let missing = new.as_ref().and_then(PrintedRow::missing_names);
            let trigger_id = watcher.trigger_id;
            let (lane, row_hash) = watcher.place(change);
            let Moment { position, xid, committed_at, .. } = *moment;
            events.push(Event {
                id: derive_event_id(&self.system, &self.source, position, trigger_id, committed_at),
                trigger_id,
                lane,
                row_hash,
                operation,
                subject: Arc::clone(&plan.subject),
                position,
                xid,
                committed_at,
                old: old.map(|row| row.text),
                new: new.map(|row| row.text),
                missing,
                old_partial,
                undecided,
                session_variables: moment.session_variables.clone(),
                backfill_id: None,
                deliver_at: None,
            });
        }
        sure
    }

    /// Appends the events that a custom event makes, one for each trigger on its type, perhaps for a later time.
    pub fn emit(
        &self,
        event_type: &str,
        data: &[u8],
        deliver_at: Option<Timestamp>,
        moment: &Moment,
        events: &mut Vec<Event>,
    ) {
        let id =
            |trigger_id| derive_event_id(&self.system, &self.source, moment.position, trigger_id, moment.committed_at);
        self.custom.emit(event_type, data, deliver_at, moment, id, events);
    }
}

impl TablePlan {
    pub(super) fn new(
        relation: Relation,
        watches: &Watches,
        partitions: &HashMap<u32, KeyedPartitions>,
        types: &mut Types,
    ) -> Self {
        let found = watches.on_relation(relation.id);
        // The types of a table that nobody watches need not be looked up.
        let columns = if found.is_empty() { Vec::new() } else { ColumnPlan::for_relation(&relation, types) };
        let old_rows = OldRows::new(&relation, &columns, partitions.get(&relation.id));
        let mut masks = Vec::new();
        let watchers = found
            .into_iter()
            .map(|(id, watch)| Watcher::new(id, watch, relation.identity, &columns, &mut masks))
            .collect();
        let subject = Arc::new(Subject::Table(relation.table.clone()));
        TablePlan { subject, relation, columns, old_rows, masks, watchers }
    }

    fn type_ids(&self) -> impl Iterator<Item = u32> {
        self.relation.columns.iter().map(|column| column.type_id)
    }

    pub(super) fn column_index(columns: &[ColumnPlan], name: &str) -> Option<usize> {
        columns.iter().position(|column| column.name == name)
    }
}

impl Watcher {
    fn new(
        trigger_id: Uuid,
        watch: &TableWatch,
        identity: Identity,
        columns: &[ColumnPlan],
        masks: &mut Vec<Mask>,
    ) -> Self {
        let mut plan = |spec: &Option<OperationSpec>| {
            spec.as_ref().map(|spec| {
                let payload = mask_of(&spec.payload, columns);
                let place = masks.iter().position(|mask| *mask == payload).unwrap_or_else(|| {
                    masks.push(payload);
                    masks.len() - 1
                });
                OperationPlan {
                    changed: mask_of(&spec.columns, columns),
                    gone: spec.columns.names().iter().any(|name| TablePlan::column_index(columns, name).is_none()),
                    payload: place,
                }
            })
        };
        Watcher {
            trigger_id,
            insert: plan(&watch.operations.insert),
            update: plan(&watch.operations.update),
            delete: plan(&watch.operations.delete),
            truncate: watch.operations.truncate,
            fire_on_unchanged: watch.fire_on_unchanged,
            trigger_on_replication: watch.trigger_on_replication,
            key: row_key(&watch.key_columns, identity, columns),
            one_lane: watch.ordering == Ordering::Trigger,
        }
    }

    /// Which columns a row sends that did not change just now: those of an insert, if inserts are watched.
    pub(super) fn payload_of_row(&self) -> Option<usize> {
        [&self.insert, &self.update, &self.delete].into_iter().flatten().map(|plan| plan.payload).next()
    }

    /// The operation, which columns it sends (by place in [`TablePlan::masks`]), and whether it could not be decided,
    /// if this watcher fires.
    fn wants(&self, plan: &TablePlan, change: Change<'_>) -> Option<(Operation, Option<usize>, bool)> {
        let sure = |operation, wanted: &OperationPlan| Some((operation, Some(wanted.payload), false));
        match change {
            Change::Insert(_) => sure(Operation::Insert, self.insert.as_ref()?),
            Change::Delete(_) => sure(Operation::Delete, self.delete.as_ref()?),
            Change::Update(old, new) => {
                let wanted = self.update.as_ref()?;
                if self.fire_on_unchanged {
                    return sure(Operation::Update, wanted);
                }
                match plan.old_rows.changed(&wanted.changed, wanted.gone, old, new) {
                    Changed::Yes => sure(Operation::Update, wanted),
                    Changed::Unknown => Some((Operation::Update, Some(wanted.payload), true)),
                    Changed::No => None,
                }
            }
            Change::Truncate => self.truncate.then_some((Operation::Truncate, None, false)),
        }
    }

    /// The event's lane, and the row it is of.
    pub(super) fn place(&self, change: Change<'_>) -> (Lane, Option<RowHash>) {
        let row = self.row(change);
        let own_lane = row.filter(|_| !self.one_lane).map(lane_of);
        (own_lane.unwrap_or_else(|| trigger_lane(self.trigger_id)), row)
    }

    /// An update that changes the key belongs to the row as it was called before.
    fn row(&self, change: Change<'_>) -> Option<RowHash> {
        let (old, new) = match change {
            Change::Insert(new) | Change::Update(OldRow::Absent, new) => (None, Some(new)),
            Change::Update(OldRow::Key(old) | OldRow::Full(old), new) => (Some(old), Some(new)),
            Change::Delete(OldRow::Key(old) | OldRow::Full(old)) => (Some(old), None),
            Change::Delete(OldRow::Absent) | Change::Truncate => return None,
        };
        let cells =
            self.key.as_ref()?.iter().map(|&index| text(old, index).or_else(|| text(new, index)).unwrap_or_default());
        Some(derive_row_hash(self.trigger_id, cells))
    }
}

fn text(row: Option<Tuple<'_>>, index: usize) -> Option<&[u8]> {
    match row?.cell(index) {
        Some(Cell::Text(text)) => Some(text),
        _ => None,
    }
}

/// The columns that tell rows apart: the primary key's, unless the WAL holds others of an old row. All changes of a row
/// must give the same. `None` without a key; no columns where they have other names now: all rows are as one then.
fn row_key(primary: &[String], identity: Identity, columns: &[ColumnPlan]) -> Option<Vec<usize>> {
    let found: Vec<usize> = primary.iter().filter_map(|name| TablePlan::column_index(columns, name)).collect();
    let whole = found.len() == primary.len() && found.iter().all(|&index| columns[index].in_identity);
    let in_wal: Vec<usize> = (0..columns.len()).filter(|&index| columns[index].in_identity).collect();
    let by_name = identity == Identity::Full || in_wal.is_empty() || (whole && !found.is_empty());
    let key = if by_name { found } else { in_wal };
    (!key.is_empty() || !primary.is_empty()).then_some(key)
}

fn mask_of(columns: &Columns, plans: &[ColumnPlan]) -> Mask {
    match columns {
        Columns::All => Mask::new(plans, |_| true),
        Columns::Only(names) => Mask::new(plans, |column| names.contains(&column.name)),
    }
}
