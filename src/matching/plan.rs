//! Changes in, events out.

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use super::old_row::{Changed, KeyedPartitions, OldRows};
use super::row::{ColumnPlan, Mask, PrintedOld, PrintedRow, print_known, print_row};
use super::watch::{ActiveWatch, Watches};
use crate::model::{
    Columns, Event, Lane, Operation, OperationSpec, Position, TableName, Timestamp, derive_event_id, derive_lane,
};
use crate::pgoutput::{Cell, Identity, OldRow, Relation, Tuple};

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
}

/// Matches changes against the watches in force. Knows the tables that the stream has described so far.
pub struct Matcher {
    system: String,
    source: String,
    watches: Watches,
    plans: HashMap<u32, TablePlan>,
    /// Of roots whose partitions are published under their name.
    partitions: HashMap<u32, KeyedPartitions>,
    /// Described since the last change, in order.
    described: Vec<u32>,
    scratch: Vec<u8>,
}

/// What one table's watches want, worked out once for all its rows.
struct TablePlan {
    relation: Relation,
    table: Arc<TableName>,
    columns: Vec<ColumnPlan>,
    old_rows: OldRows,
    /// Distinct column sets; each is printed at most once a change, however many triggers want it.
    masks: Vec<Mask>,
    watchers: Vec<Watcher>,
}

struct Watcher {
    trigger_id: Uuid,
    /// The columns that choose the lane.
    key: Vec<usize>,
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
    pub fn new(system: String, source: String, watches: Watches) -> Self {
        Matcher {
            system,
            source,
            watches,
            plans: HashMap::new(),
            partitions: HashMap::new(),
            described: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Takes note of a table's description.
    pub fn describe(&mut self, relation: Relation) {
        self.described.push(relation.id);
        let plan = TablePlan::new(relation, &self.watches, &self.partitions);
        self.plans.insert(plan.relation.id, plan);
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

    /// Puts a trigger's version into force for the changes from here on.
    pub fn activate(&mut self, trigger_id: Uuid, version: i32, watch: Option<super::Watch>) {
        self.watches.activate(trigger_id, version, watch);
        // Triggers come and go rarely; planning every known table anew is simpler than finding the one touched.
        for plan in self.plans.values_mut() {
            *plan = TablePlan::new(plan.relation.clone(), &self.watches, &self.partitions);
        }
    }

    /// Appends the events that a change makes. A table that the stream has not described makes none.
    pub fn fire(&mut self, relation: u32, change: Change<'_>, moment: &Moment, events: &mut Vec<Event>) {
        if !self.described.is_empty() {
            self.pass(Some(relation));
        }
        let Some(plan) = self.plans.get(&relation) else { return };
        if plan.watchers.is_empty() {
            return;
        }
        let change = match change {
            Change::Update(old, new) => Change::Update(plan.old_rows.read(old), new),
            Change::Delete(old) => Change::Delete(plan.old_rows.read(old)),
            Change::Insert(_) | Change::Truncate => change,
        };
        let mut printer = Printer::new(plan, change, &mut self.scratch);
        for watcher in &plan.watchers {
            if moment.replicated && !watcher.trigger_on_replication {
                continue;
            }
            let Some((operation, payload, undecided)) = watcher.wants(plan, change) else { continue };
            let (old, new) = match payload {
                Some(payload) => (printer.old(payload), printer.new_row(payload)),
                None => (None, None),
            };
            let old_partial = old.as_ref().is_some_and(|row| row.partial);
            let missing = new.as_ref().filter(|row| !row.missing.is_empty()).map(|row| row.missing.clone().into());
            events.push(Event {
                id: derive_event_id(
                    &self.system,
                    &self.source,
                    moment.position,
                    watcher.trigger_id,
                    moment.committed_at,
                ),
                trigger_id: watcher.trigger_id,
                lane: watcher.lane(change),
                operation,
                table: Arc::clone(&plan.table),
                position: moment.position,
                xid: moment.xid,
                committed_at: moment.committed_at,
                old: old.map(|row| row.text),
                new: new.map(|row| row.text),
                missing,
                old_partial,
                undecided,
            });
        }
    }
}

impl TablePlan {
    fn new(relation: Relation, watches: &Watches, partitions: &HashMap<u32, KeyedPartitions>) -> Self {
        let columns = ColumnPlan::for_relation(&relation);
        let old_rows = OldRows::new(&relation, &columns, partitions.get(&relation.id));
        let mut masks = Vec::new();
        let found = watches.on_relation(relation.id);
        let watchers =
            found.iter().map(|active| Watcher::new(active, relation.identity, &columns, &mut masks)).collect();
        TablePlan { table: Arc::new(relation.table.clone()), relation, columns, old_rows, masks, watchers }
    }

    fn column_index(columns: &[ColumnPlan], name: &str) -> Option<usize> {
        columns.iter().position(|column| column.name == name)
    }
}

impl Watcher {
    fn new(active: &ActiveWatch, identity: Identity, columns: &[ColumnPlan], masks: &mut Vec<Mask>) -> Self {
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
        let watch = &active.watch;
        Watcher {
            trigger_id: active.trigger_id,
            insert: plan(&watch.operations.insert),
            update: plan(&watch.operations.update),
            delete: plan(&watch.operations.delete),
            truncate: watch.operations.truncate,
            fire_on_unchanged: watch.fire_on_unchanged,
            trigger_on_replication: watch.trigger_on_replication,
            key: lane_key(&watch.key_columns, identity, columns),
        }
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

    fn lane(&self, change: Change<'_>) -> Lane {
        let row = match change {
            Change::Insert(new) | Change::Update(_, new) => Some(new),
            Change::Delete(OldRow::Key(old) | OldRow::Full(old)) => Some(old),
            Change::Delete(OldRow::Absent) | Change::Truncate => None,
        };
        let cells = self.key.iter().map(|&index| match row.and_then(|row| row.cell(index)) {
            Some(Cell::Text(text)) => text,
            _ => b"".as_slice(),
        });
        derive_lane(self.trigger_id, cells)
    }
}

/// The columns that choose an event's lane: the primary key's, unless the WAL holds others of an old row. An insert, an
/// update and a delete of one row must choose the same lane.
fn lane_key(primary: &[String], identity: Identity, columns: &[ColumnPlan]) -> Vec<usize> {
    let found: Vec<usize> = primary.iter().filter_map(|name| TablePlan::column_index(columns, name)).collect();
    let whole = found.len() == primary.len() && found.iter().all(|&index| columns[index].in_identity);
    let in_wal: Vec<usize> = (0..columns.len()).filter(|&index| columns[index].in_identity).collect();
    if identity == Identity::Full || in_wal.is_empty() || (whole && !found.is_empty()) { found } else { in_wal }
}

fn mask_of(columns: &Columns, plans: &[ColumnPlan]) -> Mask {
    match columns {
        Columns::All => Mask::new(plans, |_| true),
        Columns::Only(names) => Mask::new(plans, |column| names.contains(&column.name)),
    }
}

/// Prints each wanted column set of a change at most once.
struct Printer<'plan, 'row> {
    plan: &'plan TablePlan,
    change: Change<'row>,
    scratch: &'plan mut Vec<u8>,
    /// The last print of each side: nearly always the only one.
    last_old: Option<(usize, PrintedOld)>,
    last_new: Option<(usize, PrintedRow)>,
}

impl<'plan, 'row> Printer<'plan, 'row> {
    fn new(plan: &'plan TablePlan, change: Change<'row>, scratch: &'plan mut Vec<u8>) -> Self {
        Printer { plan, change, scratch, last_old: None, last_new: None }
    }

    fn new_row(&mut self, payload: usize) -> Option<PrintedRow> {
        let (row, full_old) = match self.change {
            Change::Insert(new) => (new, None),
            Change::Update(OldRow::Full(old), new) => (new, Some(old)),
            Change::Update(_, new) => (new, None),
            Change::Delete(_) | Change::Truncate => return None,
        };
        if let Some((_, printed)) = self.last_new.as_ref().filter(|(mask, _)| *mask == payload) {
            return Some(printed.clone());
        }
        let printed = print_row(self.scratch, &self.plan.columns, &self.plan.masks[payload], row, full_old);
        self.last_new = Some((payload, printed.clone()));
        Some(printed)
    }

    /// The old row as far as the WAL holds it. Without a whole one that is the replica identity's columns, and where no
    /// column of it changed they are the same as in the new row.
    fn old(&mut self, payload: usize) -> Option<PrintedOld> {
        let old = match self.change {
            Change::Insert(_) | Change::Truncate => return None,
            Change::Update(old, _) | Change::Delete(old) => old,
        };
        if let Some((_, printed)) = self.last_old.as_ref().filter(|(mask, _)| *mask == payload) {
            return Some(printed.clone());
        }
        let TablePlan { columns, old_rows, masks, .. } = self.plan;
        let (scratch, mask) = (&mut *self.scratch, &masks[payload]);
        let printed = match (old, self.change) {
            (OldRow::Full(row), _) => {
                PrintedOld { text: print_row(scratch, columns, mask, row, None).text, partial: false }
            }
            (OldRow::Key(row), _) => print_known(scratch, columns, mask, row, |_| true),
            (OldRow::Absent, Change::Update(_, new)) => {
                print_known(scratch, columns, mask, new, |index| old_rows.kept().has(index))
            }
            (OldRow::Absent, _) => return None,
        };
        self.last_old = Some((payload, printed.clone()));
        Some(printed)
    }
}
