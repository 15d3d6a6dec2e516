//! Changes in, events out.

use std::collections::HashMap;
use std::sync::Arc;

use uuid::Uuid;

use super::row::{ColumnPlan, Mask, PrintedRow, print_row};
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
    scratch: Vec<u8>,
}

/// What one table's watches want, worked out once for all its rows.
struct TablePlan {
    relation: Relation,
    table: Arc<TableName>,
    columns: Vec<ColumnPlan>,
    /// Distinct column sets; each is printed at most once a change, however many triggers want it.
    masks: Vec<Mask>,
    watchers: Vec<Watcher>,
}

struct Watcher {
    trigger_id: Uuid,
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
    /// Index into [`TablePlan::masks`].
    payload: usize,
}

impl Matcher {
    /// `system` and `source` go into the events' ids.
    pub fn new(system: String, source: String, watches: Watches) -> Self {
        Matcher { system, source, watches, plans: HashMap::new(), scratch: Vec::new() }
    }

    /// Takes note of a table's description.
    pub fn describe(&mut self, relation: Relation) {
        let plan = TablePlan::new(relation, &self.watches);
        self.plans.insert(plan.relation.id, plan);
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
            *plan = TablePlan::new(plan.relation.clone(), &self.watches);
        }
    }

    /// Appends the events that a change makes. A table that the stream has not described makes none.
    pub fn fire(&mut self, relation: u32, change: Change<'_>, moment: &Moment, events: &mut Vec<Event>) {
        let Some(plan) = self.plans.get(&relation) else { return };
        if plan.watchers.is_empty() {
            return;
        }
        let mut printer = Printer::new(plan, change, &mut self.scratch);
        for watcher in &plan.watchers {
            if moment.replicated && !watcher.trigger_on_replication {
                continue;
            }
            let Some((operation, payload)) = watcher.wants(plan, change) else { continue };
            let (old, new) = match payload {
                Some(payload) => (printer.old(payload), printer.new_row(payload)),
                None => (None, None),
            };
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
            });
        }
    }
}

impl TablePlan {
    fn new(relation: Relation, watches: &Watches) -> Self {
        let columns = ColumnPlan::for_relation(&relation);
        let mut masks = Vec::new();
        let found = watches.on_relation(relation.id);
        let watchers = found.iter().map(|active| Watcher::new(active, &columns, &mut masks)).collect();
        TablePlan { table: Arc::new(relation.table.clone()), relation, columns, masks, watchers }
    }

    fn column_index(columns: &[ColumnPlan], name: &str) -> Option<usize> {
        columns.iter().position(|column| column.name == name)
    }

    /// Whether an update changed one of these columns. What the WAL cannot tell counts as changed: an event too many
    /// can be ignored, one too few is lost.
    fn changed(&self, mask: &Mask, old: OldRow<'_>, new: Tuple<'_>) -> bool {
        let OldRow::Full(old) = old else { return true };
        let pairs = old.cells().zip(new.cells()).enumerate();
        pairs.filter(|(index, _)| mask.has(*index)).any(|(_, (old, new))| new != Cell::Unchanged && old != new)
    }
}

impl Watcher {
    fn new(active: &ActiveWatch, columns: &[ColumnPlan], masks: &mut Vec<Mask>) -> Self {
        let mut plan = |spec: &Option<OperationSpec>| {
            spec.as_ref().map(|spec| {
                let payload = mask_of(&spec.payload, columns);
                let place = masks.iter().position(|mask| *mask == payload).unwrap_or_else(|| {
                    masks.push(payload);
                    masks.len() - 1
                });
                OperationPlan { changed: mask_of(&spec.columns, columns), payload: place }
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
            key: watch.key_columns.iter().filter_map(|name| TablePlan::column_index(columns, name)).collect(),
        }
    }

    /// The operation and which columns it sends (by place in [`TablePlan::masks`]), if this watcher fires.
    fn wants(&self, plan: &TablePlan, change: Change<'_>) -> Option<(Operation, Option<usize>)> {
        let (operation, wanted) = match change {
            Change::Insert(_) => (Operation::Insert, self.insert.as_ref()?),
            Change::Delete(_) => (Operation::Delete, self.delete.as_ref()?),
            Change::Update(old, new) => {
                let wanted = self.update.as_ref()?;
                if !self.fire_on_unchanged && !plan.changed(&wanted.changed, old, new) {
                    return None;
                }
                (Operation::Update, wanted)
            }
            Change::Truncate => return self.truncate.then_some((Operation::Truncate, None)),
        };
        Some((operation, Some(wanted.payload)))
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
    last_old: Option<(usize, PrintedRow)>,
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

    /// The old row as far as the WAL holds it. Without a full one that is the replica identity's columns, and where no
    /// column of it changed they are the same as in the new row.
    fn old(&mut self, payload: usize) -> Option<PrintedRow> {
        let (row, whole) = match self.change {
            Change::Insert(_) | Change::Delete(OldRow::Absent) | Change::Truncate => return None,
            Change::Update(OldRow::Full(old), _) | Change::Delete(OldRow::Full(old)) => (old, true),
            Change::Update(OldRow::Key(old), _) | Change::Delete(OldRow::Key(old)) => (old, false),
            Change::Update(OldRow::Absent, new) => (new, false),
        };
        if let Some((_, printed)) = self.last_old.as_ref().filter(|(mask, _)| *mask == payload) {
            return Some(printed.clone());
        }
        let mask = &self.plan.masks[payload];
        let columns = &self.plan.columns;
        let printed = if whole || self.plan.relation.identity == Identity::Full {
            print_row(self.scratch, columns, mask, row, None)
        } else {
            print_row(self.scratch, columns, &mask.and(columns, |column| column.in_identity), row, None)
        };
        self.last_old = Some((payload, printed.clone()));
        Some(printed)
    }
}
