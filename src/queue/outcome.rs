//! Recording what came of attempts: the attempt log, and with it what is deferred.

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::Statement;
use uuid::Uuid;

use super::copy::CopyRows;
use super::partition::Partitions;
use super::row::PgTime;
use super::{Error, cursor};
use crate::model::{Attempt, EventId, Lane, Outcome, Timestamp, Verdict};
use crate::postgres::Session;

/// An event with an attempt that ended.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The event.
    pub event_id: EventId,
    /// Its trigger.
    pub trigger_id: Uuid,
    /// Its source.
    pub source_id: i16,
    /// Its place in the log.
    pub seq: i64,
    /// Its lane.
    pub lane: Lane,
    /// When the change committed: the partition the event is in.
    pub committed_at: Timestamp,
    /// Whether the event came from `deferred`, where it must go when it is done.
    pub was_deferred: bool,
    /// What happened.
    pub attempt: Attempt,
    /// Whether a failure is one of the trigger's `num_retries`. One that is part of its endpoint's outage is not.
    pub counts: bool,
}

/// Writes outcomes through the session that owns the lanes, so an owner that lost them cannot write.
pub struct OutcomeWriter {
    session: Session,
    partitions: Partitions,
    append: Statement,
}

const COLUMNS: i16 = 11;
/// What operators read of a trigger that was paused by its endpoint.
const GONE: &str = "the endpoint answered 410 Gone twice";

impl OutcomeWriter {
    /// A writer on the session that owns the lanes.
    ///
    /// # Errors
    /// What Postgres said to preparing the statement.
    pub async fn new(session: Session) -> Result<Self, Error> {
        let append = session.prepare(include_str!("../../sql/attempt_append.sql")).await?;
        Ok(OutcomeWriter { session, partitions: Partitions::default(), append })
    }

    /// Waits until the session ended, which an idle writer does not notice by itself.
    pub async fn closed(&mut self) {
        self.session.closed().await;
    }

    /// Records a batch, whole or not at all.
    ///
    /// # Errors
    /// After an error on the connection the batch may have been recorded all the same; see
    /// [`OutcomeWriter::is_recorded`].
    pub async fn record(&mut self, batch: &[Settled]) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let days = batch.iter().map(|settled| settled.attempt.started_at.unix_day());
        self.partitions.ensure(&*self.session, days).await?;
        let done: Vec<EventId> = batch
            .iter()
            .filter(|settled| settled.was_deferred && !waits(settled))
            .map(|settled| settled.event_id)
            .collect();
        let waiting: Vec<&Settled> = batch.iter().filter(|settled| waits(settled)).collect();
        // When all were delivered at the first attempt, the COPY is a transaction of its own.
        if done.is_empty() && waiting.is_empty() {
            return self.copy(batch).await;
        }
        self.session.batch_execute("begin").await?;
        self.copy(batch).await?;
        self.defer(&waiting).await?;
        self.pause_gone(&waiting).await?;
        if !done.is_empty() {
            self.session.execute(include_str!("../../sql/deferred_delete.sql"), &[&done]).await?;
        }
        self.session.batch_execute("commit").await?;
        Ok(())
    }

    /// Whether a batch whose recording ended in an error is in the log all the same: then its last attempt is.
    ///
    /// # Errors
    /// What Postgres said.
    pub async fn is_recorded(&self, batch: &[Settled]) -> Result<bool, Error> {
        let Some(last) = batch.last() else { return Ok(true) };
        let sql = include_str!("../../sql/attempt_exists.sql");
        let started_at = PgTime(last.attempt.started_at);
        let row = self.session.query_one(sql, &[&last.trigger_id, &last.source_id, &last.seq, &started_at]).await?;
        Ok(row.get(0))
    }

    /// Moves cursors on, through the same session.
    ///
    /// # Errors
    /// What Postgres said.
    pub async fn write_cursors(&self, moves: &[cursor::CursorMove]) -> Result<(), Error> {
        cursor::write_cursors(&*self.session, moves).await
    }

    async fn copy(&self, batch: &[Settled]) -> Result<(), Error> {
        let mut rows = CopyRows::new();
        batch.iter().for_each(|settled| write_row(&mut rows, settled));
        let sink = self.session.copy_in::<_, Bytes>(&self.append).await?;
        let mut sink = std::pin::pin!(sink);
        sink.send(rows.finish()).await?;
        sink.as_mut().finish().await?;
        Ok(())
    }

    async fn defer(&self, waiting: &[&Settled]) -> Result<(), Error> {
        if waiting.is_empty() {
            return Ok(());
        }
        fn column<T>(waiting: &[&Settled], of: impl Fn(&Settled) -> T) -> Vec<T> {
            waiting.iter().map(|settled| of(settled)).collect()
        }
        let due = |settled: &Settled| match settled.attempt.verdict {
            Verdict::RetryAt(due) => PgTime(due),
            Verdict::Delivered | Verdict::Dead | Verdict::Paused => PgTime(settled.attempt.started_at),
        };
        let made = |settled: &Settled| number(settled.attempt.number) + i32::from(spends_a_retry(settled));
        self.session
            .execute(
                include_str!("../../sql/deferred_write.sql"),
                &[
                    &column(waiting, |settled| settled.event_id),
                    &column(waiting, |settled| settled.trigger_id),
                    &column(waiting, |settled| settled.source_id),
                    &column(waiting, |settled| settled.seq),
                    &column(waiting, |settled| PgTime(settled.committed_at)),
                    &column(waiting, |settled| i16::from(settled.lane)),
                    &column(waiting, made),
                    &column(waiting, due),
                ],
            )
            .await?;
        Ok(())
    }

    async fn pause_gone(&self, waiting: &[&Settled]) -> Result<(), Error> {
        let gone = waiting.iter().filter(|settled| settled.attempt.verdict == Verdict::Paused);
        let mut triggers: Vec<Uuid> = gone.map(|settled| settled.trigger_id).collect();
        triggers.sort_unstable();
        triggers.dedup();
        if !triggers.is_empty() {
            self.session.execute(include_str!("../../sql/pause_gone.sql"), &[&triggers, &GONE]).await?;
        }
        Ok(())
    }
}

/// Whether the event is tried again.
fn waits(settled: &Settled) -> bool {
    matches!(settled.attempt.verdict, Verdict::RetryAt(_) | Verdict::Paused)
}

fn spends_a_retry(settled: &Settled) -> bool {
    settled.counts && settled.attempt.verdict != Verdict::Paused
}

fn number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX - 1)
}

fn write_row(rows: &mut CopyRows, settled: &Settled) {
    let attempt = &settled.attempt;
    let (status, response, error) = match &attempt.outcome {
        Outcome::Answered(response) => (Some(response.status), Some(response.head.as_str()), None),
        Outcome::Failed(failure) => (None, None, Some(failure.text.as_str())),
    };
    let verdict = match attempt.verdict {
        Verdict::Delivered => "delivered",
        Verdict::RetryAt(_) => "retry",
        Verdict::Dead => "dead",
        Verdict::Paused => "paused",
    };
    rows.start_row(COLUMNS);
    rows.i64(settled.seq);
    rows.time(attempt.started_at);
    rows.i64(attempt.duration_micros);
    rows.i32(number(attempt.number));
    rows.i16(settled.source_id);
    match status {
        Some(status) => rows.i16(status as i16),
        None => rows.null(),
    }
    rows.uuid(settled.event_id);
    rows.uuid(settled.trigger_id);
    rows.bytes(verdict.as_bytes());
    rows.optional_bytes(response.filter(|head| !head.is_empty()).map(str::as_bytes));
    rows.optional_bytes(error.map(str::as_bytes));
}
