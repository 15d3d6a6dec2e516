//! Rows that are sent on request, and which of them a change makes old.

use std::sync::Arc;

use uuid::Uuid;

use super::plan::{Change, Matcher, Moment, TablePlan};
use super::row::Mask;
use crate::model::{Event, Operation, derive_event_id};
use crate::pgoutput::{Cell, OldRow, Relation, Tuple};

impl Matcher {
    /// Wants those of a table's types to be looked up that [`backfill`](Self::backfill) will print.
    pub fn want_types_of(&mut self, relation: &Relation) {
        self.types.want(relation.columns.iter().map(|column| column.type_id));
    }

    /// Appends an INSERT event for each of these rows of a table, for one trigger. Each has a position of its own after
    /// the moment's. Returns false and appends nothing where the trigger is not in force on that table.
    pub fn backfill<'a>(
        &mut self,
        (trigger_id, backfill_id): (Uuid, Uuid),
        relation: &Relation,
        rows: impl Iterator<Item = Tuple<'a>>,
        moment: &mut Moment,
        events: &mut Vec<Event>,
    ) -> bool {
        let mut plan = TablePlan::new(relation.clone(), &self.watches, &self.partitions, &mut self.types);
        let Some(place) = plan.watchers.iter().position(|watcher| watcher.trigger_id == trigger_id) else {
            return false;
        };
        let payload = plan.watchers[place].payload_of_row().unwrap_or_else(|| {
            plan.masks.push(Mask::new(&plan.columns, |_| true));
            plan.masks.len() - 1
        });
        for row in rows {
            moment.position.ordinal += 1;
            let Moment { position, xid, committed_at, .. } = *moment;
            let (lane, row_hash) = plan.watchers[place].place(Change::Insert(row));
            let printed = self.draft.print_row(&plan.columns, &plan.masks[payload], row, None);
            events.push(Event {
                id: derive_event_id(&self.system, &self.source, position, trigger_id, committed_at),
                trigger_id,
                lane,
                row_hash,
                operation: Operation::Insert,
                subject: Arc::clone(&plan.subject),
                position,
                xid,
                committed_at,
                old: None,
                missing: printed.missing_names(),
                new: Some(printed.text),
                old_partial: false,
                undecided: false,
                session_variables: None,
                backfill_id: Some(backfill_id),
                deliver_at: None,
            });
        }
        true
    }

    /// The key that a row had before it was updated or deleted, in the form of [`row_key`]. `None` where the WAL does
    /// not hold it.
    pub fn key_before(&self, relation: u32, change: Change<'_>, key: &[String]) -> Option<Vec<u8>> {
        let plan = self.plans.get(&relation)?;
        let mut columns = key.iter().map(|name| TablePlan::column_index(&plan.columns, name));
        let (old, new) = match change {
            Change::Update(old, new) => (plan.old_rows.read(old), Some(new)),
            Change::Delete(old) => (plan.old_rows.read(old), None),
            Change::Insert(_) | Change::Truncate => return None,
        };
        match old {
            OldRow::Full(row) | OldRow::Key(row) => row_key(row, columns),
            // No column of the identity changed.
            OldRow::Absent => {
                let kept = |index: Option<usize>| index.filter(|index| plan.old_rows.kept().has(*index));
                row_key(new?, columns.by_ref().map(kept))
            }
        }
    }
}

/// A row's key as bytes that are equal where the texts of all its columns are. `None` where one of them is not there.
pub fn row_key(row: Tuple<'_>, columns: impl Iterator<Item = Option<usize>>) -> Option<Vec<u8>> {
    let mut key = Vec::new();
    for column in columns {
        let Some(Cell::Text(text)) = row.cell(column?) else { return None };
        key.extend_from_slice(&(text.len() as u32).to_be_bytes());
        key.extend_from_slice(text);
    }
    Some(key)
}
