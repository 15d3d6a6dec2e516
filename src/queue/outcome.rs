//! Recording what came of attempts: the attempt log, and with it what is deferred and what waits no more.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::Statement;
use uuid::Uuid;

use super::batch::{Batch, Settled, Waiting, number};
use super::copy::CopyRows;
use super::encoding::has_all_characters;
use super::partition::Partitions;
use super::row::PgTime;
use super::{Error, RowVersion, cursor};
use crate::model::{EventId, LaneSet, Outcome, RowHash, Verdict};
use crate::postgres::{LOCK_NOT_AVAILABLE, Session};

/// Writes outcomes through the session that owns the lanes, so an owner that lost them cannot write.
pub struct OutcomeWriter {
    session: Session,
    partitions: Partitions,
    append: Statement,
    /// Whether the database has no characters but ASCII that it is known to have.
    ascii: bool,
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
        let ascii = !has_all_characters(&*session).await?;
        Ok(OutcomeWriter { session, partitions: Partitions::default(), append, ascii })
    }

    /// The session, for taking lanes and giving them back.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Waits until the session ended, which an idle writer does not notice by itself.
    pub async fn closed(&mut self) {
        self.session.closed().await;
    }

    /// Records a batch, whole or not at all, but for what others have locked, which is moved to `later`. Gives the rows
    /// in which others still wait, of those that a deferred event of the batch made free, as far as that concerns the
    /// lanes that are `ours`.
    ///
    /// # Errors
    /// After an error on the connection the batch may have been recorded all the same; see
    /// [`OutcomeWriter::is_recorded`].
    pub async fn record(
        &mut self,
        batch: &mut Batch,
        later: &mut Batch,
        ours: LaneSet,
    ) -> Result<Vec<(Uuid, RowHash)>, Error> {
        let days = batch.settled.iter().map(|settled| settled.attempt.started_at.unix_day());
        self.partitions.ensure(&*self.session, days).await?;
        // When all were delivered at the first attempt, the COPY is a transaction of its own.
        let is_plain = |settled: &Settled| !settled.was_deferred() && !settled.is_waiting();
        if batch.parked.is_empty() && batch.skipped.is_empty() && batch.settled.iter().all(is_plain) {
            self.copy(&batch.settled).await?;
            return Ok(Vec::new());
        }
        self.session.batch_execute("begin").await?;
        self.set_aside_locked(batch, later).await?;
        self.copy(&batch.settled).await?;
        let parked = batch.parked.iter().map(Waiting::parked);
        let waiting: Vec<Waiting> = batch.settled.iter().filter_map(Waiting::settled).chain(parked).collect();
        self.defer(&waiting).await?;
        self.pause_gone(&batch.settled).await?;
        let done = batch.settled.iter().filter(|settled| settled.was_deferred() && !settled.is_waiting());
        let gone: Vec<EventId> = done.map(|settled| settled.event_id).collect();
        if !gone.is_empty() {
            self.session.execute(include_str!("../../sql/deferred_delete.sql"), &[&gone]).await?;
        }
        let skipped: Vec<EventId> = batch.skipped.iter().map(|skipped| skipped.event_id).collect();
        if !skipped.is_empty() {
            self.session.execute(include_str!("../../sql/deferred_skip.sql"), &[&skipped]).await?;
        }
        let still_waiting = self.release(batch, ours).await?;
        self.session.batch_execute("commit").await?;
        Ok(still_waiting)
    }

    /// Locks the rows of the deferred events, and moves those that others have locked to `later`: to wait for one would
    /// hold up all the rest. Notes which ones somebody had redelivered meanwhile.
    async fn set_aside_locked(&self, batch: &mut Batch, later: &mut Batch) -> Result<(), Error> {
        let settled = batch.settled.iter().filter(|settled| settled.was_deferred()).map(|settled| settled.event_id);
        let deferred: Vec<EventId> = settled.chain(batch.skipped.iter().map(|skipped| skipped.event_id)).collect();
        if deferred.is_empty() {
            return Ok(());
        }
        let rows = self.session.query(include_str!("../../sql/deferred_locked.sql"), &[&deferred]).await?;
        // Without a version it is locked.
        let found: HashMap<EventId, Option<i64>> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        for settled in &mut batch.settled {
            let redelivered = found.get(&settled.event_id).copied().flatten().map(RowVersion);
            // The attempt that was asked for was fetched with that version itself.
            settled.asked_again = redelivered.is_some() && redelivered != settled.version;
        }
        let is_locked = |event: EventId| found.get(&event) == Some(&None);
        // What came behind one in its row waits with it: were only that one forgotten, it would come again after them.
        let row = |settled: &Settled| settled.holds.map(|row| (settled.trigger_id, row));
        let locked = batch.settled.iter().filter(|settled| is_locked(settled.event_id));
        let held_up: HashSet<(Uuid, RowHash)> = locked.filter_map(row).collect();
        let waits = |settled: &mut Settled| {
            is_locked(settled.event_id) || row(settled).is_some_and(|row| held_up.contains(&row))
        };
        later.settled.extend(batch.settled.extract_if(.., waits));
        later.skipped.extend(batch.skipped.extract_if(.., |skipped| is_locked(skipped.event_id)));
        Ok(())
    }

    /// Makes the next event due of each row that the batch made free. Done again it changes nothing, and gives what
    /// [`record`](OutcomeWriter::record) gave.
    ///
    /// # Errors
    /// What Postgres said.
    pub async fn release(&self, batch: &Batch, ours: LaneSet) -> Result<Vec<(Uuid, RowHash)>, Error> {
        let freed = batch.freed();
        if freed.is_empty() {
            return Ok(Vec::new());
        }
        let triggers: Vec<Uuid> = freed.iter().map(|(trigger, ..)| *trigger).collect();
        let rows: Vec<RowHash> = freed.iter().map(|(_, row, _)| *row).collect();
        let lanes: Vec<i16> = freed.iter().map(|(.., lane)| i16::from(*lane)).collect();
        let sql = include_str!("../../sql/deferred_release.sql");
        let found = self.session.query(sql, &[&triggers, &rows, &lanes, &ours.numbers()]).await?;
        Ok(found.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Whether a batch whose recording ended in an error is in the log all the same: then its last attempt is. What has
    /// no attempt can be recorded twice.
    ///
    /// # Errors
    /// What Postgres said.
    pub async fn is_recorded(&self, batch: &Batch) -> Result<bool, Error> {
        let Some(last) = batch.settled.last() else { return Ok(false) };
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
        if batch.is_empty() {
            return Ok(());
        }
        // In the order of the index, which then is searched less.
        let mut sorted: Vec<&Settled> = batch.iter().collect();
        sorted.sort_by_key(|settled| (settled.trigger_id, settled.source_id, settled.seq));
        let mut rows = CopyRows::new();
        sorted.into_iter().for_each(|settled| write_row(&mut rows, settled, self.ascii));
        let sink = self.session.copy_in::<_, Bytes>(&self.append).await?;
        let mut sink = std::pin::pin!(sink);
        sink.send(rows.finish()).await?;
        sink.as_mut().finish().await?;
        Ok(())
    }

    async fn defer(&self, waiting: &[Waiting]) -> Result<(), Error> {
        if waiting.is_empty() {
            return Ok(());
        }
        fn column<T>(waiting: &[Waiting], of: impl Fn(&Waiting) -> T) -> Vec<T> {
            waiting.iter().map(of).collect()
        }
        self.session
            .execute(
                include_str!("../../sql/deferred_write.sql"),
                &[
                    &column(waiting, |event| event.event_id),
                    &column(waiting, |event| event.trigger_id),
                    &column(waiting, |event| event.source_id),
                    &column(waiting, |event| event.seq),
                    &column(waiting, |event| PgTime(event.committed_at)),
                    &column(waiting, |event| i16::from(event.lane)),
                    &column(waiting, |event| event.number),
                    &column(waiting, |event| event.due.map(PgTime)),
                    &column(waiting, |event| event.reason),
                    &column(waiting, |event| event.row),
                ],
            )
            .await?;
        Ok(())
    }

    async fn pause_gone(&self, settled: &[Settled]) -> Result<(), Error> {
        let gone = settled.iter().filter(|settled| settled.attempt.verdict == Verdict::Paused);
        let (triggers, started_at): (Vec<Uuid>, Vec<PgTime>) =
            gone.map(|settled| (settled.trigger_id, PgTime(settled.attempt.started_at))).unzip();
        if triggers.is_empty() {
            return Ok(());
        }
        // Somebody may pause one of them for the first time in a transaction that is open still, which cannot be seen:
        // to wait for its row would hold up all the rest.
        self.session.batch_execute("savepoint gone; set local lock_timeout = '100ms'").await?;
        let sql = include_str!("../../sql/pause_gone.sql");
        match self.session.execute(sql, &[&triggers, &started_at, &GONE]).await {
            Ok(_) => self.session.batch_execute("set local lock_timeout = 0; release savepoint gone").await?,
            Err(error) if error.code().is_some_and(|code| code.code() == LOCK_NOT_AVAILABLE) => {
                self.session.batch_execute("rollback to savepoint gone").await?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// What a webhook answered may be in characters that the database has not; nothing could be recorded with them.
fn in_characters_of(ascii: bool, text: &str) -> Cow<'_, str> {
    match ascii && !text.is_ascii() {
        true => text.chars().map(|character| if character.is_ascii() { character } else { '?' }).collect(),
        false => text.into(),
    }
}

fn write_row(rows: &mut CopyRows, settled: &Settled, ascii: bool) {
    let attempt = &settled.attempt;
    let (status, response, error) = match &attempt.outcome {
        Outcome::Answered(response) => (Some(response.status), Some(response.head.as_str()), response.refused),
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
    for text in [response.filter(|head| !head.is_empty()), error] {
        rows.optional_bytes(text.map(|text| in_characters_of(ascii, text)).as_deref().map(str::as_bytes));
    }
}
