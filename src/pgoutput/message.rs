//! The messages of the protocol.

use super::reader::{DecodeError, Reader};
use crate::model::{Lsn, TableName, Timestamp};

/// One message. Rows are borrowed from its bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction starts. Transactions come whole and in commit order.
    Begin {
        /// Where its commit record begins.
        commit_lsn: Lsn,
        /// When it committed.
        committed_at: Timestamp,
        /// Its number.
        xid: u32,
    },
    /// The transaction ends.
    Commit {
        /// Where its commit record ends.
        end_lsn: Lsn,
    },
    /// Somebody wrote it with `pg_logical_emit_message`.
    Logical {
        /// Whether it belongs to the open transaction; otherwise it stands alone, also when its writer rolled back.
        transactional: bool,
        /// Says whom it is for; anybody's may be in no encoding.
        prefix: &'a [u8],
        /// Whatever the writer wrote.
        content: &'a [u8],
    },
    /// Describes a table; comes before its first row and again after any change to it.
    Relation(Relation),
    /// Names a type that is not built in.
    Type,
    /// Comes right after a transaction's begin when the transaction arrived by replication from elsewhere.
    Origin,
    /// A row was inserted.
    Insert {
        /// OID of the table.
        relation: u32,
        /// The row.
        new: Tuple<'a>,
    },
    /// A row was updated.
    Update {
        /// OID of the table.
        relation: u32,
        /// What the WAL holds of the row before.
        old: OldRow<'a>,
        /// The row after; unchanged TOAST values are [`Cell::Unchanged`], also under REPLICA IDENTITY FULL.
        new: Tuple<'a>,
    },
    /// A row was deleted.
    Delete {
        /// OID of the table.
        relation: u32,
        /// What the WAL holds of the row.
        old: OldRow<'a>,
    },
    /// Tables were emptied by one statement.
    Truncate(Relations<'a>),
}

/// The old row of an update or delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldRow<'a> {
    /// Not in the WAL: the identity is not FULL and no column of it changed.
    Absent,
    /// The columns of the replica identity; all others are null and mean nothing.
    Key(Tuple<'a>),
    /// Every column (REPLICA IDENTITY FULL).
    Full(Tuple<'a>),
}

/// A table as the publisher describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// OID; of the root table where the publication publishes through it.
    pub id: u32,
    /// The name as it was at this place in the WAL.
    pub table: TableName,
    /// What old rows hold.
    pub identity: Identity,
    /// In the order of the rows' cells.
    pub columns: Vec<Column>,
}

impl Relation {
    /// The names of the columns in the replica identity.
    pub fn identity_columns(&self) -> Vec<String> {
        self.columns.iter().filter(|column| column.in_identity).map(|column| column.name.clone()).collect()
    }
}

/// REPLICA IDENTITY of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The primary key.
    Default,
    /// Nothing.
    Nothing,
    /// The whole row.
    Full,
    /// The columns of an index.
    Index,
}

/// A column as the publisher describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name.
    pub name: String,
    /// OID of its type; of the domain, where it has one.
    pub type_id: u32,
    /// Whether it is part of the replica identity; under FULL every column is.
    pub in_identity: bool,
}

/// The tables of a TRUNCATE, each once. Of partitioned tables only the root is named, where the publication publishes
/// through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relations<'a> {
    /// Whole OIDs, checked when the message was decoded.
    bytes: &'a [u8],
}

impl<'a> Relations<'a> {
    /// Their OIDs.
    pub fn iter(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.bytes.chunks_exact(4).map(|oid| oid.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }
}

/// A row's cells, checked to be whole when the message was decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<'a> {
    count: u16,
    bytes: &'a [u8],
}

/// One value of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    /// NULL.
    Null,
    /// A TOAST value that the statement did not touch; it is not in the message.
    Unchanged,
    /// The type's text output. UTF-8, except in a database without an encoding.
    Text(&'a [u8]),
}

impl<'a> Tuple<'a> {
    /// How many cells there are.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether the table has no column.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The cells in the order of the relation's columns.
    pub fn cells(&self) -> impl Iterator<Item = Cell<'a>> + use<'a> {
        let mut rest = self.bytes;
        std::iter::from_fn(move || {
            let (kind, after) = rest.split_first()?;
            rest = after;
            match kind {
                b'n' => Some(Cell::Null),
                b'u' => Some(Cell::Unchanged),
                _ => {
                    let (length, after) = rest.split_first_chunk()?;
                    let (text, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
                    rest = after;
                    Some(Cell::Text(text))
                }
            }
        })
    }

    /// The cell at a column's place.
    pub fn cell(&self, index: usize) -> Option<Cell<'a>> {
        self.cells().nth(index)
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = reader.u16("column count")?;
        let whole = reader.rest();
        for _ in 0..count {
            match reader.u8("column kind")? {
                b'n' | b'u' => {}
                b't' => {
                    let length = reader.length("column length")?;
                    reader.bytes(length, "column value")?;
                }
                _ => return Err(reader.invalid("column kind")),
            }
        }
        let read = whole.len() - reader.rest().len();
        Ok(Tuple { count, bytes: &whole[..read] })
    }
}

/// A row that is not part of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    count: u16,
    bytes: Vec<u8>,
}

impl Row {
    /// A row of these cells; `None` is null. A table has fewer columns and shorter values than the format allows.
    pub fn of<'a>(cells: impl Iterator<Item = Option<&'a [u8]>>) -> Row {
        let mut row = Row { count: 0, bytes: Vec::new() };
        for cell in cells {
            row.count += 1;
            match cell {
                None => row.bytes.push(b'n'),
                Some(text) => {
                    row.bytes.push(b't');
                    row.bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
                    row.bytes.extend_from_slice(text);
                }
            }
        }
        row
    }

    /// Bytes in memory, about those of its text.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The row as a message would hold it.
    pub fn tuple(&self) -> Tuple<'_> {
        Tuple { count: self.count, bytes: &self.bytes }
    }
}

/// Decodes one message.
///
/// # Errors
/// [`DecodeError`] for anything that is not exactly one message; never panics.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    let mut reader = Reader::new(bytes)?;
    let message = match reader.tag() {
        'B' => {
            let commit_lsn = reader.lsn("commit position")?;
            let committed_at = Timestamp::from_postgres_micros(reader.i64("commit time")?);
            Message::Begin { commit_lsn, committed_at, xid: reader.u32("transaction")? }
        }
        'C' => {
            reader.u8("flags")?;
            reader.lsn("commit position")?;
            let end_lsn = reader.lsn("end position")?;
            reader.i64("commit time")?;
            Message::Commit { end_lsn }
        }
        'M' => {
            let transactional = reader.u8("flags")? & 1 == 1;
            reader.lsn("position")?;
            let prefix = reader.terminated("prefix")?;
            let length = reader.length("content length")?;
            Message::Logical { transactional, prefix, content: reader.bytes(length, "content")? }
        }
        'I' => {
            let relation = reader.u32("relation")?;
            expect_marker(&mut reader, b'N')?;
            Message::Insert { relation, new: Tuple::read(&mut reader)? }
        }
        'U' => {
            let relation = reader.u32("relation")?;
            let marker = reader.u8("row marker")?;
            let old = read_old(&mut reader, marker)?;
            if old != OldRow::Absent {
                expect_marker(&mut reader, b'N')?;
            }
            Message::Update { relation, old, new: Tuple::read(&mut reader)? }
        }
        'D' => {
            let relation = reader.u32("relation")?;
            let marker = reader.u8("row marker")?;
            match read_old(&mut reader, marker)? {
                OldRow::Absent => return Err(reader.invalid("row marker")),
                old => Message::Delete { relation, old },
            }
        }
        'R' => Message::Relation(read_relation(&mut reader)?),
        'T' => {
            let count = reader.length("relation count")?;
            reader.u8("options")?;
            let bytes = count.checked_mul(4).ok_or_else(|| reader.invalid("relation count"))?;
            Message::Truncate(Relations { bytes: reader.bytes(bytes, "relation")? })
        }
        'Y' => {
            reader.u32("type")?;
            reader.string("schema")?;
            reader.string("name")?;
            Message::Type
        }
        'O' => {
            reader.bytes(8, "origin position")?;
            reader.string("name")?;
            Message::Origin
        }
        tag => return Err(DecodeError::UnknownTag(tag)),
    };
    reader.finish()?;
    Ok(message)
}

fn expect_marker(reader: &mut Reader<'_>, expected: u8) -> Result<(), DecodeError> {
    if reader.u8("row marker")? == expected { Ok(()) } else { Err(reader.invalid("row marker")) }
}

fn read_old<'a>(reader: &mut Reader<'a>, marker: u8) -> Result<OldRow<'a>, DecodeError> {
    match marker {
        b'N' => Ok(OldRow::Absent),
        b'K' => Ok(OldRow::Key(Tuple::read(reader)?)),
        b'O' => Ok(OldRow::Full(Tuple::read(reader)?)),
        _ => Err(reader.invalid("row marker")),
    }
}

fn read_relation(reader: &mut Reader<'_>) -> Result<Relation, DecodeError> {
    let id = reader.u32("relation")?;
    let schema = match reader.string("schema")? {
        "" => "pg_catalog",
        schema => schema,
    };
    let table = TableName::new(schema, reader.string("table")?);
    let identity = match reader.u8("replica identity")? {
        b'd' => Identity::Default,
        b'n' => Identity::Nothing,
        b'f' => Identity::Full,
        b'i' => Identity::Index,
        _ => return Err(reader.invalid("replica identity")),
    };
    let count = reader.u16("column count")?;
    let mut columns = Vec::with_capacity(usize::from(count).min(1664));
    for _ in 0..count {
        let flags = reader.u8("column flags")?;
        let name = reader.string("column name")?.to_owned();
        let type_id = reader.u32("column type")?;
        reader.i32("type modifier")?;
        columns.push(Column { name, type_id, in_identity: flags & 1 == 1 });
    }
    Ok(Relation { id, table, identity, columns })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(cells: &[Cell<'_>]) -> Vec<u8> {
        let mut bytes = (cells.len() as u16).to_be_bytes().to_vec();
        for cell in cells {
            match cell {
                Cell::Null => bytes.push(b'n'),
                Cell::Unchanged => bytes.push(b'u'),
                Cell::Text(text) => {
                    bytes.push(b't');
                    bytes.extend((text.len() as u32).to_be_bytes());
                    bytes.extend(*text);
                }
            }
        }
        bytes
    }

    fn update(marker: Option<u8>, old: &[Cell<'_>], new: &[Cell<'_>]) -> Vec<u8> {
        let mut bytes = b"U\0\0\0\x07".to_vec();
        if let Some(marker) = marker {
            bytes.push(marker);
            bytes.extend(tuple(old));
        }
        bytes.push(b'N');
        bytes.extend(tuple(new));
        bytes
    }

    #[test]
    fn an_update_is_read_with_each_kind_of_old_row() {
        let new = [Cell::Text(b"1"), Cell::Null, Cell::Unchanged];
        let old = [Cell::Text(b"0"), Cell::Null, Cell::Text(b"long")];
        for (marker, expected) in [(None, "Absent"), (Some(b'K'), "Key"), (Some(b'O'), "Full")] {
            let bytes = update(marker, &old, &new);
            let Message::Update { relation: 7, old: row, new: read } = decode(&bytes).expect("whole message") else {
                panic!("not an update");
            };
            assert_eq!(read.cells().collect::<Vec<_>>(), new);
            assert!(format!("{row:?}").starts_with(expected));
            if let OldRow::Key(read) | OldRow::Full(read) = row {
                assert_eq!(read.cells().collect::<Vec<_>>(), old);
                assert_eq!(read.cell(2), Some(Cell::Text(b"long")));
            }
        }
    }

    #[test]
    fn a_transactions_frame_and_a_logical_message_are_read() {
        let begin = [&b"B"[..], &[0, 0, 0, 1, 0, 0, 0, 2], &7_i64.to_be_bytes(), &[0, 0, 0, 9]].concat();
        let expected =
            Message::Begin { commit_lsn: Lsn(1 << 32 | 2), committed_at: Timestamp::from_postgres_micros(7), xid: 9 };
        assert_eq!(decode(&begin), Ok(expected));
        let commit = [&b"C\0"[..], &[0; 8], &[0, 0, 0, 1, 0, 0, 0, 3], &[0; 8]].concat();
        assert_eq!(decode(&commit), Ok(Message::Commit { end_lsn: Lsn(1 << 32 | 3) }));
        let logical = [&b"M\x01"[..], &[0; 8], b"walhook\0\0\0\0\x02hi"].concat();
        let expected = Message::Logical { transactional: true, prefix: b"walhook", content: b"hi" };
        assert_eq!(decode(&logical), Ok(expected));
        for whole in [begin, commit, logical] {
            assert!((1..whole.len()).all(|end| decode(&whole[..end]).is_err()));
        }
    }

    #[test]
    fn a_relation_is_read() {
        let mut bytes = b"R\0\0\0\x09public\0users\0f\0\x01".to_vec();
        bytes.extend(b"\x01id\0\0\0\0\x17\xff\xff\xff\xff");
        let Message::Relation(relation) = decode(&bytes).expect("whole message") else { panic!("not a relation") };
        assert_eq!(relation.table, TableName::new("public", "users"));
        assert_eq!(relation.identity, Identity::Full);
        assert_eq!(relation.columns, [Column { name: "id".into(), type_id: 23, in_identity: true }]);
    }

    #[test]
    fn a_truncate_names_its_tables() {
        let bytes = b"T\0\0\0\x02\x01\0\0\x01\x02\0\0\0\x09";
        let Message::Truncate(relations) = decode(bytes).expect("whole message") else { panic!("not a truncate") };
        assert_eq!(relations.iter().collect::<Vec<_>>(), [258, 9]);
        assert!(decode(b"T\0\0\0\x02\x01\0\0\x01\x02").is_err(), "the second table is missing");
        assert!(decode(b"T\x7f\xff\xff\xff\x01\0\0\x01\x02").is_err(), "many tables are missing");
    }

    #[test]
    fn every_cut_and_every_extra_byte_is_an_error() {
        let bytes = update(Some(b'O'), &[Cell::Text(b"0")], &[Cell::Text(b"1")]);
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "cut at {end} was accepted");
        }
        let mut longer = bytes;
        longer.push(0);
        assert_eq!(decode(&longer), Err(DecodeError::TrailingBytes { tag: 'U', bytes: 1 }));
    }

    #[test]
    fn what_is_not_known_is_named() {
        assert_eq!(decode(b"Z"), Err(DecodeError::UnknownTag('Z')));
        assert_eq!(decode(b""), Err(DecodeError::Empty));
        assert!(decode(b"I\0\0\0\x01N\0\x01b\0\0\0\0").is_err(), "binary values are not asked for");
    }
}
