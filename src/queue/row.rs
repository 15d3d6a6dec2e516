//! Reading events and WAL positions back from rows.

use std::sync::Arc;

use bytes::Bytes;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, PgLsn, ToSql, Type, to_sql_checked};
use uuid::Uuid;

use super::{Error, Logged};
use crate::model::{Event, Lsn, Operation, Position, Subject, TableName, Timestamp};

/// A WAL position as a statement's parameter.
pub(super) fn pg_lsn(lsn: Lsn) -> PgLsn {
    PgLsn::from(lsn.0)
}

/// A WAL position from a row.
pub(super) fn lsn(value: PgLsn) -> Lsn {
    Lsn(value.into())
}

/// A timestamp in Postgres' own resolution and range, which chrono's types would round-trip only in part.
#[derive(Clone, Copy, Debug)]
pub(super) struct PgTime(pub(super) Timestamp);

impl<'a> FromSql<'a> for PgTime {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(PgTime(Timestamp::from_postgres_micros(i64::from_be_bytes(raw.try_into()?))))
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::TIMESTAMPTZ
    }
}

impl ToSql for PgTime {
    fn to_sql(&self, _: &Type, out: &mut bytes::BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.0.to_postgres_micros().to_be_bytes());
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

/// A transaction's number: `xid`, which tokio-postgres has no type for.
struct PgXid(u32);

impl<'a> FromSql<'a> for PgXid {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(PgXid(u32::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::XID
    }
}

/// The subject of the event that was read last: the events of a trigger usually share it.
#[derive(Default)]
pub(super) struct LastSubject(Option<Arc<Subject>>);

impl LastSubject {
    fn table(&mut self, schema: &str, name: &str) -> Arc<Subject> {
        match &self.0 {
            Some(last) if last.table().is_some_and(|table| table.schema == schema && table.name == name) => {
                Arc::clone(last)
            }
            _ => Arc::clone(self.0.insert(Arc::new(Subject::Table(TableName::new(schema, name))))),
        }
    }

    fn event_type(&mut self, name: &str) -> Arc<Subject> {
        match &self.0 {
            Some(last) if last.event_type() == Some(name) => Arc::clone(last),
            _ => Arc::clone(self.0.insert(Arc::new(Subject::Type(name.to_owned())))),
        }
    }
}

/// Reads an event from the columns that `backlog_read.sql` and `deferred_due.sql` share, from `first` on: id, lane,
/// operation, schema, table, commit LSN, ordinal, xid, commit time, old, new, missing columns, partial old row,
/// undecided, event type, context, backfill, row hash, time to be delivered at.
pub(super) fn logged(
    row: &Row,
    (source_id, seq): (i16, i64),
    trigger_id: Uuid,
    first: usize,
    last_subject: &mut LastSubject,
) -> Result<Logged, Error> {
    let operation: &str = row.get(first + 2);
    let operation = Operation::from_name(operation).ok_or_else(|| Error::Corrupt {
        what: format!("event {seq} of source {source_id}"),
        reason: format!("unknown operation {operation:?}"),
    })?;
    let rows = |index: usize| row.get::<_, Option<&str>>(index).map(|text| Bytes::copy_from_slice(text.as_bytes()));
    let subject = match row.get(first + 14) {
        Some(name) => last_subject.event_type(name),
        None => last_subject.table(row.get(first + 3), row.get(first + 4)),
    };
    let lane: i16 = row.get(first + 1);
    let ordinal: i64 = row.get(first + 6);
    let missing: Option<Vec<String>> = row.get(first + 11);
    let event = Event {
        id: row.get(first),
        trigger_id,
        lane: lane as u8,
        row_hash: row.get(first + 17),
        operation,
        subject,
        position: Position { commit_lsn: lsn(row.get(first + 5)), ordinal: ordinal as u64 },
        xid: row.get::<_, PgXid>(first + 7).0,
        committed_at: row.get::<_, PgTime>(first + 8).0,
        old: rows(first + 9),
        new: rows(first + 10),
        missing: missing.map(Into::into),
        old_partial: row.get::<_, Option<bool>>(first + 12).unwrap_or(false),
        undecided: row.get::<_, Option<bool>>(first + 13).unwrap_or(false),
        session_variables: rows(first + 15),
        backfill_id: row.get(first + 16),
        deliver_at: row.get::<_, Option<PgTime>>(first + 18).map(|time| time.0),
    };
    Ok(Logged { seq, source_id, event, replay_id: None })
}
