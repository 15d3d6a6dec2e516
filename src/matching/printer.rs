//! The old and the new row of one change, each printed once for all the triggers that want the same columns of it.

use super::plan::{Change, TablePlan};
use super::row::{Draft, PrintedOld, PrintedRow};
use crate::pgoutput::OldRow;

/// Prints each wanted column set of a change at most once.
pub(super) struct Printer<'plan, 'row> {
    plan: &'plan TablePlan,
    change: Change<'row>,
    draft: &'plan mut Draft,
    /// The last print of each side, where there are more triggers than one: nearly always the only one.
    last_old: Option<(usize, PrintedOld)>,
    last_new: Option<(usize, PrintedRow)>,
}

impl<'plan, 'row> Printer<'plan, 'row> {
    pub(super) fn new(plan: &'plan TablePlan, change: Change<'row>, draft: &'plan mut Draft) -> Self {
        Printer { plan, change, draft, last_old: None, last_new: None }
    }

    pub(super) fn new_row(&mut self, payload: usize) -> Option<PrintedRow> {
        let (row, full_old) = match self.change {
            Change::Insert(new) => (new, None),
            Change::Update(OldRow::Full(old), new) => (new, Some(old)),
            Change::Update(_, new) => (new, None),
            Change::Delete(_) | Change::Truncate => return None,
        };
        if let Some((_, printed)) = self.last_new.as_ref().filter(|(mask, _)| *mask == payload) {
            return Some(printed.clone());
        }
        let printed = self.draft.print_row(&self.plan.columns, &self.plan.masks[payload], row, full_old);
        if self.is_shared() {
            self.last_new = Some((payload, printed.clone()));
        }
        Some(printed)
    }

    /// The old row as far as the WAL holds it. Without a whole one that is the replica identity's columns, and where no
    /// column of it changed they are the same as in the new row.
    pub(super) fn old(&mut self, payload: usize) -> Option<PrintedOld> {
        let old = match self.change {
            Change::Insert(_) | Change::Truncate => return None,
            Change::Update(old, _) | Change::Delete(old) => old,
        };
        if let Some((_, printed)) = self.last_old.as_ref().filter(|(mask, _)| *mask == payload) {
            return Some(printed.clone());
        }
        let TablePlan { columns, old_rows, masks, .. } = self.plan;
        let (draft, mask) = (&mut *self.draft, &masks[payload]);
        let printed = match (old, self.change) {
            (OldRow::Full(row), _) => {
                let PrintedRow { text, missing, sure } = draft.print_row(columns, mask, row, None);
                PrintedOld { text, partial: !missing.is_empty(), sure }
            }
            (OldRow::Key(row), _) => draft.print_known(columns, mask, row, |_| true),
            (OldRow::Absent, Change::Update(_, new)) => {
                draft.print_known(columns, mask, new, |index| old_rows.kept().has(index))
            }
            (OldRow::Absent, _) => return None,
        };
        if self.is_shared() {
            self.last_old = Some((payload, printed.clone()));
        }
        Some(printed)
    }

    /// A text that is given to one trigger only needs no count of who has it, which is an allocation of its own.
    fn is_shared(&self) -> bool {
        self.plan.watchers.len() > 1
    }
}
