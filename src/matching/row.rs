//! Rows as JSON objects.

use bytes::Bytes;

use crate::pgoutput::{Cell, Column, Kind, Relation, Tuple, Types, write_key, write_value};

/// What is needed of a column to print it.
pub(super) struct ColumnPlan {
    pub(super) name: String,
    /// `"name":`, escaped once for all rows.
    prefix: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) in_identity: bool,
}

impl ColumnPlan {
    pub(super) fn for_relation(relation: &Relation, types: &mut Types) -> Vec<ColumnPlan> {
        let plan = |column: &Column| {
            let mut prefix = Vec::new();
            write_key(&mut prefix, &column.name);
            let kind = types.column_kind(column.type_id);
            ColumnPlan { name: column.name.clone(), prefix, kind, in_identity: column.in_identity }
        };
        relation.columns.iter().map(plan).collect()
    }
}

/// Which columns of a table; one place a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mask(Vec<bool>);

impl Mask {
    pub(super) fn new(columns: &[ColumnPlan], wanted: impl Fn(&ColumnPlan) -> bool) -> Self {
        Mask(columns.iter().map(wanted).collect())
    }

    pub(super) fn has(&self, index: usize) -> bool {
        self.0.get(index).copied().unwrap_or(false)
    }

    /// Whether every column in it is in the other one, too.
    pub(super) fn is_within(&self, other: &Mask) -> bool {
        self.0.iter().zip(&other.0).all(|(here, there)| !here || *there)
    }
}

/// A printed row and the columns that belong in it but are not in the WAL.
#[derive(Clone, Debug, Default)]
pub(super) struct PrintedRow {
    pub(super) text: Bytes,
    pub(super) missing: Vec<String>,
    /// Whether every value is what its type, as it is known, prints.
    pub(super) sure: bool,
}

/// What the WAL holds of an old row: whether columns that belong in it are not there.
#[derive(Clone, Debug, Default)]
pub(super) struct PrintedOld {
    pub(super) text: Bytes,
    pub(super) partial: bool,
    /// As in [`PrintedRow`].
    pub(super) sure: bool,
}

/// Prints a row's columns in the mask. An unchanged TOAST value comes from the full old row; where there is none its
/// column is left out and named, never shown as null.
pub(super) fn print_row(
    scratch: &mut Vec<u8>,
    columns: &[ColumnPlan],
    mask: &Mask,
    row: Tuple<'_>,
    full_old: Option<Tuple<'_>>,
) -> PrintedRow {
    start(scratch);
    let (mut missing, mut sure) = (Vec::new(), true);
    let mut old_cells = full_old.map(|old| old.cells());
    for (index, (column, cell)) in columns.iter().zip(row.cells()).enumerate() {
        let old_cell = old_cells.as_mut().and_then(Iterator::next);
        if !mask.has(index) {
            continue;
        }
        let cell = match cell {
            Cell::Unchanged => old_cell.unwrap_or(Cell::Unchanged),
            cell => cell,
        };
        if cell == Cell::Unchanged {
            missing.push(column.name.clone());
        } else {
            sure &= print_cell(scratch, column, cell);
        }
    }
    PrintedRow { text: finish(scratch), missing, sure }
}

/// Prints what is known of an old row that is not whole: the columns in the mask that are also `known` and have a
/// value. A null says only that the column is not there.
pub(super) fn print_known(
    scratch: &mut Vec<u8>,
    columns: &[ColumnPlan],
    mask: &Mask,
    row: Tuple<'_>,
    known: impl Fn(usize) -> bool,
) -> PrintedOld {
    start(scratch);
    let (mut partial, mut sure) = (false, true);
    for (index, (column, cell)) in columns.iter().zip(row.cells()).enumerate().filter(|(index, _)| mask.has(*index)) {
        match cell {
            Cell::Text(_) if known(index) => sure &= print_cell(scratch, column, cell),
            _ => partial = true,
        }
    }
    PrintedOld { text: finish(scratch), partial, sure }
}

fn start(scratch: &mut Vec<u8>) {
    scratch.clear();
    scratch.push(b'{');
}

/// Returns whether the value is what its type prints.
fn print_cell(scratch: &mut Vec<u8>, column: &ColumnPlan, cell: Cell<'_>) -> bool {
    if scratch.len() > 1 {
        scratch.push(b',');
    }
    scratch.extend_from_slice(&column.prefix);
    match cell {
        Cell::Text(text) => write_value(scratch, &column.kind, text),
        Cell::Null | Cell::Unchanged => {
            scratch.extend_from_slice(b"null");
            true
        }
    }
}

/// More than this is not kept for the next row: one large row would be paid for as long as the stream lasts.
const MUCH: usize = 1024 * 1024;

/// One exact allocation a row: a shared arena would be kept alive whole by a single event that waits.
fn finish(scratch: &mut Vec<u8>) -> Bytes {
    scratch.push(b'}');
    let row = Bytes::copy_from_slice(scratch);
    if scratch.capacity() > MUCH {
        *scratch = Vec::new();
    }
    row
}
