//! Rows as JSON objects.

use std::sync::Arc;

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

/// A printed row and the columns that belong in it but are not in the WAL, or would be too much.
#[derive(Clone, Debug, Default)]
pub(super) struct PrintedRow {
    pub(super) text: Bytes,
    pub(super) missing: Vec<String>,
    /// Whether every value is what its type, as it is known, prints.
    pub(super) sure: bool,
}

impl PrintedRow {
    pub(super) fn missing_names(&self) -> Option<Arc<[String]>> {
        (!self.missing.is_empty()).then(|| self.missing.clone().into())
    }
}

/// What the WAL holds of an old row: whether columns that belong in it are not there.
#[derive(Clone, Debug, Default)]
pub(super) struct PrintedOld {
    pub(super) text: Bytes,
    pub(super) partial: bool,
    /// As in [`PrintedRow`].
    pub(super) sure: bool,
}

/// Postgres takes no value, and no message, of 1 GiB (`MaxAllocSize`), and an old and a new row go to it in one. A row
/// in the WAL is smaller than that, but JSON makes up to six bytes of one.
const MOST: usize = 480 * 1024 * 1024;

/// More than this is not kept for the next row: one large row would be paid for as long as the stream lasts.
const MUCH: usize = 1024 * 1024;

/// The row that is being printed. Its memory serves the next one, too.
#[derive(Debug)]
pub(super) struct Draft {
    text: Vec<u8>,
    most: usize,
}

impl Default for Draft {
    fn default() -> Self {
        Draft { text: Vec::new(), most: MOST }
    }
}

impl Draft {
    /// Prints a row's columns in the mask. An unchanged TOAST value comes from the full old row; where there is none
    /// its column is left out and named, never shown as null. So is one with which the row would be too large.
    pub(super) fn print_row(
        &mut self,
        columns: &[ColumnPlan],
        mask: &Mask,
        row: Tuple<'_>,
        full_old: Option<Tuple<'_>>,
    ) -> PrintedRow {
        self.start();
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
            match if cell == Cell::Unchanged { None } else { self.print_cell(column, cell) } {
                Some(as_known) => sure &= as_known,
                None => missing.push(column.name.clone()),
            }
        }
        PrintedRow { text: self.finish(), missing, sure }
    }

    /// Prints what is known of an old row that is not whole: the columns in the mask that are also `known` and have a
    /// value. A null says only that the column is not there.
    pub(super) fn print_known(
        &mut self,
        columns: &[ColumnPlan],
        mask: &Mask,
        row: Tuple<'_>,
        known: impl Fn(usize) -> bool,
    ) -> PrintedOld {
        self.start();
        let (mut partial, mut sure) = (false, true);
        let wanted = columns.iter().zip(row.cells()).enumerate().filter(|(index, _)| mask.has(*index));
        for (index, (column, cell)) in wanted {
            let is_known = matches!(cell, Cell::Text(_)) && known(index);
            match if is_known { self.print_cell(column, cell) } else { None } {
                Some(as_known) => sure &= as_known,
                None => partial = true,
            }
        }
        PrintedOld { text: self.finish(), partial, sure }
    }

    fn start(&mut self) {
        self.text.clear();
        self.text.push(b'{');
    }

    /// Returns whether the value is what its type prints; nothing where it would be too much.
    fn print_cell(&mut self, column: &ColumnPlan, cell: Cell<'_>) -> Option<bool> {
        let before = self.text.len();
        if matches!(cell, Cell::Text(text) if before + text.len() > self.most) {
            return None;
        }
        if before > 1 {
            self.text.push(b',');
        }
        self.text.extend_from_slice(&column.prefix);
        let as_known = match cell {
            Cell::Text(text) => write_value(&mut self.text, &column.kind, text),
            Cell::Null | Cell::Unchanged => {
                self.text.extend_from_slice(b"null");
                true
            }
        };
        let fits = self.text.len() <= self.most;
        if !fits {
            self.text.truncate(before);
        }
        fits.then_some(as_known)
    }

    /// One exact allocation a row: a shared arena would be kept alive whole by a single event that waits.
    fn finish(&mut self) -> Bytes {
        self.text.push(b'}');
        let row = Bytes::copy_from_slice(&self.text);
        if self.text.capacity() > MUCH {
            self.text = Vec::new();
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgoutput::Row;

    fn columns() -> Vec<ColumnPlan> {
        let column = |name: &str| {
            let mut prefix = Vec::new();
            write_key(&mut prefix, name);
            ColumnPlan { name: name.to_owned(), prefix, kind: Kind::Text, in_identity: false }
        };
        ["a", "b", "c"].map(column).into()
    }

    fn row(cells: [&str; 3]) -> Row {
        Row::of(cells.iter().map(|cell| Some(cell.as_bytes())))
    }

    #[test]
    fn a_value_with_which_a_row_would_be_too_large_is_left_out_and_named() {
        let (columns, mut draft) = (columns(), Draft { most: 32, ..Draft::default() });
        let mask = Mask::new(&columns, |_| true);
        for (cells, text, missing) in [
            (["1", "2", "3"], r#"{"a":"1","b":"2","c":"3"}"#, vec![]),
            (["1", "012345678", "3"], r#"{"a":"1","b":"012345678","c":"3"}"#, vec![]),
            (["1", "0123456789", "3"], r#"{"a":"1","b":"0123456789"}"#, vec!["c"]),
            (["0123456789012345678901234567", "2", "3"], r#"{"b":"2","c":"3"}"#, vec!["a"]),
            // Six times as long as JSON.
            (["1", "\u{1}\u{2}\u{1}\u{2}", "3"], r#"{"a":"1","c":"3"}"#, vec!["b"]),
        ] {
            let row = row(cells);
            let whole = draft.print_row(&columns, &mask, row.tuple(), None);
            assert_eq!(
                (&*whole.text, &whole.missing),
                (text.as_bytes(), &missing.iter().map(ToString::to_string).collect())
            );
            let known = draft.print_known(&columns, &mask, row.tuple(), |_| true);
            assert_eq!((&*known.text, known.partial), (text.as_bytes(), !missing.is_empty()));
        }
    }

    #[test]
    fn an_old_and_a_new_row_go_to_postgres_in_one_message() {
        assert!(2 * Draft::default().most < 1 << 30);
    }
}
