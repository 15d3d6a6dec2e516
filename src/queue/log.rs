//! Appending to the event log: capture's side of the queue.

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::Statement;
use uuid::Uuid;

use super::copy::CopyRows;
use super::partition::Partitions;
use super::row::PgTime;
use super::{Error, Logged, catalogue, source};
use crate::model::{Event, Lsn, Timestamp};
use crate::postgres::Session;

/// A trigger's version that capture passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// The trigger.
    pub trigger_id: Uuid,
    /// Its definition's number.
    pub version: i32,
    /// The commit that made it.
    pub commit_lsn: Lsn,
    /// What it watches, as JSON; `None` ends the trigger.
    pub watch: Option<String>,
    /// The whole definition, as JSON.
    pub definition: Option<String>,
}

/// How far a backfill came with the events beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    /// The backfill.
    pub backfill_id: Uuid,
    /// The key of the last row that was looked at, as texts.
    pub last_key: Vec<String>,
    /// Rows that were looked at since the last advance.
    pub looked_at: i64,
    /// Those that are sent.
    pub sent: i64,
    /// Those that are not, because the stream had newer events of them.
    pub superseded: i64,
}

/// Events for one append.
#[derive(Debug, Default)]
pub struct Chunk {
    /// In the order of their positions.
    pub events: Vec<Event>,
    /// Versions passed among them.
    pub activations: Vec<Activation>,
    /// Backfills whose rows are among them.
    pub advances: Vec<Advance>,
    /// How far the source is done with once this chunk is committed; `None` for a part of a transaction whose end has
    /// not come, which stays uncommitted. The last chunk of a transaction that had events holds at least one.
    pub progress: Option<Lsn>,
}

/// What an append left behind.
#[derive(Debug)]
pub struct Appended {
    /// Durable progress, if the append committed.
    pub progress: Option<Lsn>,
    /// The chunk's events with their places.
    pub events: Vec<Logged>,
    /// Whether a backfill advanced in it.
    pub advanced: bool,
    /// The log's last seq.
    pub last_seq: i64,
}

/// The one writer of a source's log. Its session holds the source's capture lock, so a writer that lost its
/// connection cannot commit any more once another one has started.
pub struct LogWriter {
    session: Session,
    source_id: i16,
    next_seq: i64,
    in_transaction: bool,
    partitions: Partitions,
    append: Statement,
}

const COLUMNS: i16 = 23;

impl LogWriter {
    /// A writer that goes on after `last_seq`.
    ///
    /// # Errors
    /// What Postgres said to preparing the statements.
    pub async fn new(session: Session, source_id: i16, last_seq: i64) -> Result<Self, Error> {
        let append = session.prepare(include_str!("../../sql/log_append.sql")).await?;
        let partitions = Partitions::default();
        Ok(LogWriter { session, source_id, next_seq: last_seq + 1, in_transaction: false, partitions, append })
    }

    /// Whether a part of a transaction was appended whose commit comes with the rest of it.
    pub fn is_in_transaction(&self) -> bool {
        self.in_transaction
    }

    /// The session, for statements between appends.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Waits until the session ended, which an idle writer does not notice by itself.
    pub async fn closed(&mut self) {
        self.session.closed().await;
    }

    /// Appends a chunk, and commits if it has a progress.
    ///
    /// # Errors
    /// After any error the writer is of no more use: whether the commit happened is only known by reading progress on a
    /// new session.
    pub async fn append(&mut self, chunk: Chunk) -> Result<Appended, Error> {
        // Also where a large transaction ends: what committed behind it may be of another day.
        let days = chunk.events.iter().map(|event| event.committed_at.unix_day());
        self.partitions.ensure(&*self.session, days).await?;
        // A COPY alone is a transaction of its own and saves two round trips; that is the usual case.
        let advanced = !chunk.advances.is_empty();
        let scheduled = chunk.events.iter().any(|event| event.deliver_at.is_some());
        let needs_transaction = chunk.progress.is_none() || !chunk.activations.is_empty() || advanced || scheduled;
        if needs_transaction && !self.in_transaction {
            // Until the rest of a large transaction comes, however long that takes; others end the session of a node
            // that is frozen.
            let begin = "begin; set local idle_in_transaction_session_timeout = 0";
            self.session.batch_execute(begin).await?;
            self.in_transaction = true;
        }
        catalogue::activate(&*self.session, self.source_id, &chunk.activations).await?;
        for advance in &chunk.advances {
            let Advance { backfill_id, last_key, looked_at, sent, superseded } = advance;
            let sql = include_str!("../../sql/backfill_advance.sql");
            self.session.execute(sql, &[backfill_id, last_key, looked_at, sent, superseded]).await?;
        }
        if let (true, Some(progress)) = (chunk.events.is_empty(), chunk.progress) {
            // No event carries the progress, and nothing may be acknowledged that is not durable here.
            source::write_progress(&*self.session, self.source_id, progress).await?;
        }
        let mut events = self.copy(chunk.events, chunk.progress).await?;
        if scheduled {
            self.schedule(&mut events).await?;
        }
        if chunk.progress.is_some() && self.in_transaction {
            self.session.batch_execute("commit").await?;
            self.in_transaction = false;
        }
        Ok(Appended { progress: chunk.progress, events, advanced, last_seq: self.next_seq - 1 })
    }

    async fn copy(&mut self, events: Vec<Event>, progress: Option<Lsn>) -> Result<Vec<Logged>, Error> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let sink = self.session.copy_in::<_, Bytes>(&self.append).await?;
        let mut sink = std::pin::pin!(sink);
        let mut rows = CopyRows::new();
        let last = events.len() - 1;
        let mut logged = Vec::with_capacity(events.len());
        for (index, event) in events.into_iter().enumerate() {
            let seq = self.next_seq;
            self.next_seq += 1;
            write_row(&mut rows, self.source_id, seq, &event, progress.filter(|_| index == last));
            logged.push(Logged { seq, source_id: self.source_id, event, replay_id: None });
            if let Some(piece) = rows.piece() {
                sink.feed(piece).await?;
            }
        }
        sink.send(rows.finish()).await?;
        sink.as_mut().finish().await?;
        Ok(logged)
    }
}

impl LogWriter {
    /// Defers the events that are for a later time, with the append that they are in. From here on they are known by
    /// their times; the rows of a million that wait are not to go through memory once more.
    async fn schedule(&self, events: &mut [Logged]) -> Result<(), Error> {
        let mut rows: Vec<(&mut Logged, Timestamp)> =
            events.iter_mut().filter_map(|logged| logged.event.deliver_at.map(|at| (logged, at))).collect();
        fn column<T>(rows: &[(&mut Logged, Timestamp)], of: impl Fn(&Logged) -> T) -> Vec<T> {
            rows.iter().map(|(logged, _)| of(logged)).collect()
        }
        let due: Vec<PgTime> = rows.iter().map(|(_, at)| PgTime(*at)).collect();
        let sql = include_str!("../../sql/deferred_schedule.sql");
        self.session
            .query(
                sql,
                &[
                    &self.source_id,
                    &column(&rows, Logged::id),
                    &column(&rows, |logged| logged.event.trigger_id),
                    &column(&rows, |logged| logged.seq),
                    &column(&rows, |logged| PgTime(logged.event.committed_at)),
                    &column(&rows, |logged| i16::from(logged.event.lane)),
                    &due,
                ],
            )
            .await?;
        rows.iter_mut().for_each(|(logged, _)| logged.event.new = None);
        Ok(())
    }
}

fn write_row(rows: &mut CopyRows, source_id: i16, seq: i64, event: &Event, progress: Option<Lsn>) {
    rows.start_row(COLUMNS);
    rows.i64(seq);
    rows.lsn(event.position.commit_lsn);
    rows.i64(event.position.ordinal as i64);
    rows.time(event.committed_at);
    rows.xid(event.xid);
    rows.i16(source_id);
    rows.i16(i16::from(event.lane));
    rows.uuid(event.id);
    rows.uuid(event.trigger_id);
    rows.bytes(event.operation.as_str().as_bytes());
    let table = event.subject.table();
    rows.optional_bytes(table.map(|table| table.schema.as_bytes()));
    rows.optional_bytes(table.map(|table| table.name.as_bytes()));
    rows.optional_bytes(event.old.as_deref());
    rows.optional_bytes(event.new.as_deref());
    match &event.missing {
        Some(names) => rows.texts(names),
        None => rows.null(),
    }
    rows.set(event.old_partial);
    rows.set(event.undecided);
    rows.optional_bytes(event.subject.event_type().map(str::as_bytes));
    rows.optional_bytes(event.session_variables.as_deref());
    rows.optional_bytes(event.backfill_id.as_ref().map(|id| id.as_bytes().as_slice()));
    match event.row_hash {
        Some(row) => rows.i64(row),
        None => rows.null(),
    }
    match event.deliver_at {
        Some(at) => rows.time(at),
        None => rows.null(),
    }
    match progress {
        Some(progress) => rows.lsn(progress),
        None => rows.null(),
    }
}
