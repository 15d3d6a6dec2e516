//! What the WAL tells of a row before its change, and whether that decides if the row changed.

use std::collections::BTreeMap;

use super::row::{ColumnPlan, Mask};
use crate::pgoutput::{Cell, Identity, OldRow, Relation, Tuple};

/// The partitions of one table that the stream has described and whose identity is not FULL, by OID.
///
/// Where partitions are published under their root, a change names the root, and an old row is marked as the root's
/// identity would have it; but what it holds is what the partition's own identity put into the WAL. A partition that
/// was made or attached later may well have another one than the root.
pub(super) type KeyedPartitions = BTreeMap<u32, Vec<String>>;

/// How to read the old rows of one table.
pub(super) struct OldRows {
    /// Where rows marked as whole may hold keys only: the columns that such a row can hold.
    mixed: Option<Mask>,
    /// Columns that did not change where the WAL holds no old row.
    kept: Mask,
}

/// Whether an update changed what a trigger asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Changed {
    Yes,
    No,
    /// The WAL cannot tell. An event too many can be ignored, one too few is lost, so this fires.
    Unknown,
}

impl OldRows {
    pub(super) fn new(relation: &Relation, columns: &[ColumnPlan], partitions: Option<&KeyedPartitions>) -> Self {
        let has = |names: &Vec<String>, column: &ColumnPlan| names.contains(&column.name);
        match partitions.filter(|partitions| !partitions.is_empty()) {
            Some(partitions) => OldRows {
                mixed: Some(Mask::new(columns, |column| partitions.values().any(|names| has(names, column)))),
                kept: Mask::new(columns, |column| partitions.values().all(|names| has(names, column))),
            },
            // With a FULL identity there always is an old row.
            None if relation.identity == Identity::Full => OldRows { mixed: None, kept: Mask::new(columns, |_| false) },
            None => OldRows { mixed: None, kept: Mask::new(columns, |column| column.in_identity) },
        }
    }

    /// The old row for what it is. One that is marked as whole, but could come from a partition with another identity
    /// and holds nothing beyond such an identity, counts as a key: its other columns are null because they are not
    /// there.
    pub(super) fn read<'a>(&self, old: OldRow<'a>) -> OldRow<'a> {
        match (old, &self.mixed) {
            (OldRow::Full(row), Some(keys)) => {
                let beyond = row.cells().enumerate().any(|(index, cell)| cell != Cell::Null && !keys.has(index));
                if beyond { old } else { OldRow::Key(row) }
            }
            _ => old,
        }
    }

    /// Columns whose old value is the new one where the WAL holds no old row.
    pub(super) fn kept(&self) -> &Mask {
        &self.kept
    }

    /// Whether an update changed one of the columns in `asked`. With `gone`, columns that the table does not have any
    /// more were asked for as well: one of them may live on under another name, so any other change leaves it open.
    pub(super) fn changed<'a>(&self, asked: &Mask, gone: bool, old: OldRow<'a>, new: Tuple<'a>) -> Changed {
        let unknown_if = |unknown| if unknown { Changed::Unknown } else { Changed::No };
        match old {
            OldRow::Full(old) => {
                if pairs(old, new).enumerate().any(|(index, pair)| asked.has(index) && differ(pair)) {
                    return Changed::Yes;
                }
                unknown_if(gone && pairs(old, new).any(differ))
            }
            // The columns of an identity are never null: what is null is not there.
            OldRow::Key(old) => {
                let mut open = gone;
                for (_, pair) in pairs(old, new).enumerate().filter(|(index, _)| asked.has(*index)) {
                    match pair.0 {
                        Cell::Null => open = true,
                        _ if differ(pair) => return Changed::Yes,
                        _ => {}
                    }
                }
                unknown_if(open)
            }
            OldRow::Absent => unknown_if(gone || !asked.is_within(&self.kept)),
        }
    }
}

fn pairs<'a>(old: Tuple<'a>, new: Tuple<'a>) -> impl Iterator<Item = (Cell<'a>, Cell<'a>)> {
    old.cells().zip(new.cells())
}

/// A big value that the statement did not touch is the old one.
fn differ((old, new): (Cell<'_>, Cell<'_>)) -> bool {
    new != Cell::Unchanged && old != new
}
