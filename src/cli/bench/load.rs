//! The application's table and what is written to it, as rows, as WAL and as the events that come of it.

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use crate::delivery::{self, Endpoint};
use crate::model::{
    Definition, Environment, Event, Limits, Lsn, OnDead, Operation, Operations, Ordering, Position, RetryConf, Subject,
    TableName, Timestamp, Trigger, Webhook,
};
use crate::postgres::Session;

pub(super) const SCHEMA: &str = "bench";
pub(super) const TABLE: &str = "item";
/// Bytes of a row beside its payload: the key's.
const KEY_BYTES: usize = 8;

/// Makes the table.
///
/// # Errors
/// What Postgres said.
pub(super) async fn make_table(session: &Session) -> anyhow::Result<()> {
    let statement = "create schema bench; \
                     create table bench.item ( \
                         id bigint generated always as identity primary key, payload text not null)";
    Ok(session.batch_execute(statement).await?)
}

/// What rows look like and how they are committed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub row_bytes: usize,
    pub transaction_rows: u64,
}

/// The shapes whose throughput is measured.
pub(super) const SHAPES: [Shape; 4] = [
    Shape { row_bytes: 200, transaction_rows: 1000 },
    Shape { row_bytes: 200, transaction_rows: 1 },
    Shape { row_bytes: 1600, transaction_rows: 1000 },
    Shape { row_bytes: 1600, transaction_rows: 1 },
];

impl Shape {
    /// For the report.
    pub fn name(self) -> String {
        match self.transaction_rows {
            1 => format!("rows of {} B, 1 a transaction", self.row_bytes),
            count => format!("rows of {} B, {count} a transaction", self.row_bytes),
        }
    }

    /// Its events depend on it; short enough that Postgres neither compresses it nor stores it elsewhere.
    fn payload_bytes(self) -> usize {
        self.row_bytes - KEY_BYTES
    }

    /// Writes rows and returns the position behind the last commit. A checkpoint ends it, so that the measurement that
    /// follows does not pay for writing these rows out.
    ///
    /// # Errors
    /// What Postgres said.
    pub async fn load(self, session: &Session, rows: u64) -> anyhow::Result<String> {
        self.write(session, rows).await?;
        session.batch_execute("checkpoint").await?;
        Ok(session.query_one("select pg_current_wal_flush_lsn()::text", &[]).await?.get(0))
    }

    /// Writes rows, in whole transactions.
    ///
    /// # Errors
    /// What Postgres said.
    pub async fn write(self, session: &Session, rows: u64) -> anyhow::Result<()> {
        let (length, each) = (self.payload_bytes(), self.transaction_rows);
        let transactions = rows / each;
        // It is not what is measured, so its commits need not wait for the disk.
        session.batch_execute("set synchronous_commit = off").await?;
        session
            .batch_execute(&format!(
                "do $$ begin for number in 1 .. {transactions} loop \
                     insert into bench.item (payload) \
                     select substr(repeat(md5((number * {each} + i)::text), 60), 1, {length}) \
                     from generate_series(1, {each}) i; \
                     commit; \
                 end loop; end $$"
            ))
            .await?;
        Ok(session.batch_execute("set synchronous_commit = on").await?)
    }

    /// An event as capture makes it of a row of this shape.
    pub fn event(self, number: u64, committed_at: Timestamp) -> Event {
        let payload: String = "0123456789abcdef".chars().cycle().take(self.payload_bytes()).collect();
        let row = format!("{{\"id\":{number},\"payload\":\"{payload}\"}}");
        Event {
            id: Uuid::new_v4(),
            trigger_id: Uuid::from_u128(1),
            lane: 0,
            row_hash: None,
            operation: Operation::Insert,
            subject: Arc::new(Subject::Table(TableName::new(SCHEMA, TABLE))),
            position: Position { commit_lsn: Lsn(number), ordinal: 1 },
            xid: 1,
            committed_at,
            old: None,
            new: Some(Bytes::from(row)),
            missing: None,
            old_partial: false,
            undecided: false,
            session_variables: None,
            backfill_id: None,
            deliver_at: None,
        }
    }

    /// The body of the request for such an event.
    pub fn body(self, endpoint: &Endpoint, number: u64, committed_at: Timestamp) -> Bytes {
        delivery::body(endpoint, &self.event(number, committed_at), 0)
    }
}

/// The endpoint of a trigger with the same settings as those of the measured triggers.
///
/// # Errors
/// When the URL is none.
pub(super) fn endpoint(url: String) -> anyhow::Result<Endpoint> {
    let trigger = Trigger {
        id: Uuid::from_u128(1),
        version: 1,
        definition: Definition {
            name: "bench".into(),
            source: "default".into(),
            subject: Subject::Table(TableName::new(SCHEMA, TABLE)),
            webhook: Webhook::Url(url),
            operations: Operations::default(),
            enable_manual: false,
            headers: Vec::new(),
            retry_conf: RetryConf::default(),
            limits: Limits::default(),
            batch: None,
            fire_on_unchanged: false,
            trigger_on_replication: false,
            transaction: false,
            ordering: Ordering::default(),
            on_dead: OnDead::default(),
        },
    };
    Endpoint::resolve(&trigger, &Environment::process()).map_err(anyhow::Error::msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_as_long_as_its_row_and_a_frame() {
        let endpoint = endpoint("http://127.0.0.1:1/".into()).expect("an endpoint");
        for shape in SHAPES {
            let length = shape.body(&endpoint, 1_000_000, Timestamp::now()).len();
            assert!((shape.row_bytes..shape.row_bytes + 600).contains(&length), "{length} for {}", shape.name());
        }
    }
}
