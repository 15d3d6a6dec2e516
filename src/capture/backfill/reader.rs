//! Reads the rows of a backfill, chunk by chunk. Each chunk is in the log before the next one is read, so a node that
//! dies leaves nothing behind but the progress in the log's own transaction.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};
use tracing::{info, warn};
use uuid::Uuid;

use super::table::{self, quote};
use super::{Chunk, Outcome, Request, Table, Tracker, Unreadable};
use crate::model::TableName;
use crate::pgoutput::Row;
use crate::postgres::{self, Class, Session, Settings};
use crate::queue::{self, Backfill};

/// Before another try after an error that may pass.
const PAUSE: Duration = Duration::from_secs(2);
/// A backfill is told through the WAL at once. This look is for one that was asked for while nobody captured and whose
/// commit waited for a standby as capture started.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// A commit is in the stream before others see it: by a moment, or by as long as a standby takes to confirm it. So what
/// was told and is not there is looked for again, first after this, then after twice as long each time.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Between two looks for transactions that are waited for.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LONGEST_LOOK: Duration = Duration::from_secs(1);
/// After this, what is waited for is said.
const SAY_AFTER: Duration = Duration::from_secs(5);
/// Between two tries to read a chunk that was spoiled; grows with the tries.
const SPOILED_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of a page that are kept, passed by one row: what can be told of packed values without unpacking them may be a
/// twentieth of their text.
const TEXT_BYTES: usize = 4 * 1024 * 1024;
/// Classes of SQLSTATEs (PostgreSQL manual, appendix A) that may pass: connections, conflicts, resources, objects in
/// use, an operator who intervenes, the system.
const PASSING: [&str; 6] = ["08", "40", "53", "55", "57", "58"];
/// Classes with messages about names and rights.
const NAMING: [&str; 4] = ["0A", "28", "3D", "42"];

/// What it works with.
pub(in crate::capture) struct Reader {
    pub(in crate::capture) database: Settings,
    pub(in crate::capture) publication: String,
    /// The log's database.
    pub(in crate::capture) queue: Settings,
    /// The source's id in its own database.
    pub(in crate::capture) catalogue_id: i16,
    pub(in crate::capture) requests: mpsc::Sender<Request>,
    pub(in crate::capture) asked: Arc<Notify>,
}

/// Why work on a backfill stopped.
enum Stop {
    /// It cannot be done.
    Failed(String),
    /// It was cancelled.
    Cancelled,
    /// It goes on later.
    Interrupted(String),
}

impl Stop {
    fn of(error: &postgres::Error) -> Stop {
        let state = match error {
            postgres::Error::Postgres(error) => postgres::sqlstate(error).map(|state| state.code().to_owned()),
            _ => None,
        };
        match state {
            Some(state) if PASSING.iter().any(|class| state.starts_with(class)) => {
                Stop::Interrupted(format!("Postgres says {error}"))
            }
            // The message names what is in the catalogue, no value of a row.
            Some(state) if NAMING.iter().any(|class| state.starts_with(class)) => Stop::Failed(error.to_string()),
            Some(state) => {
                Stop::Failed(format!("reading the rows, or the condition on one of them, fails (SQLSTATE {state})"))
            }
            None if error.class() == Class::Retry => Stop::Interrupted(error.to_string()),
            None => Stop::Failed(error.to_string()),
        }
    }
}

impl From<tokio_postgres::Error> for Stop {
    fn from(error: tokio_postgres::Error) -> Self {
        Stop::of(&error.into())
    }
}

impl From<queue::Error> for Stop {
    fn from(error: queue::Error) -> Self {
        match error {
            queue::Error::Postgres(error) => Stop::of(&error),
            other => Stop::Failed(other.to_string()),
        }
    }
}

impl From<Unreadable> for Stop {
    fn from(error: Unreadable) -> Self {
        match error {
            Unreadable::Database(error) => Stop::of(&error),
            other => Stop::Failed(other.to_string()),
        }
    }
}

impl Reader {
    /// Works on what is asked for, for as long as this node captures the source; to be aborted then.
    pub(in crate::capture) async fn run(self) {
        let mut wait = LOOK_EVERY;
        loop {
            match self.work().await {
                Ok(0) => {}
                Ok(_) => wait = LOOK_EVERY,
                Err(error) => {
                    warn!("backfills are interrupted: {error}; they go on where they are");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            }
            wait = match tokio::time::timeout(wait, self.asked.notified()).await {
                Ok(()) => LOOK_AGAIN,
                Err(_) => (wait * 2).min(LOOK_EVERY),
            };
        }
    }

    /// Works until nothing is left to do; gives how many backfills it worked on.
    async fn work(&self) -> Result<usize, String> {
        let text = |error: queue::Error| error.to_string();
        let session = postgres::connect_to_read(&self.database, "walhook backfill").await;
        let session = session.map_err(|error| error.to_string())?;
        let mut worked_on = 0;
        while let Some(backfill) = queue::next_backfill(&*session, self.catalogue_id).await.map_err(text)? {
            worked_on += 1;
            let Backfill { id, trigger, .. } = &backfill;
            match self.fill(&session, &backfill).await {
                Ok(()) => {
                    queue::end_backfill(&*session, *id, None).await.map_err(text)?;
                    info!(trigger, backfill = %id, "backfill done");
                }
                Err(Stop::Cancelled) => info!(trigger, backfill = %id, "backfill cancelled"),
                Err(Stop::Failed(reason)) => {
                    warn!(trigger, backfill = %id, "backfill failed: {reason}");
                    queue::end_backfill(&*session, *id, Some(&reason)).await.map_err(text)?;
                }
                Err(Stop::Interrupted(reason)) => return Err(reason),
            }
        }
        Ok(worked_on)
    }

    async fn fill(&self, session: &Session, backfill: &Backfill) -> Result<(), Stop> {
        let deleted = || Stop::Failed("its trigger was deleted".into());
        let relation = backfill.relation.ok_or_else(deleted)?;
        let mut last_key = self.last_key(backfill.id).await?;
        queue::start_backfill(&**session, backfill.id).await?;
        let goes_on = last_key.is_some();
        info!(trigger = backfill.trigger, backfill = %backfill.id, goes_on, "backfill begins");
        self.track(session, backfill, relation).await?;
        let mut spoiled = 0;
        loop {
            let (outcome, told) = oneshot::channel();
            let Some(chunk) = self.read(session, backfill, relation, last_key.as_deref(), outcome).await? else {
                return Ok(());
            };
            let (watermark, key) = (chunk.watermark, chunk.last_key.clone());
            let (taken_in, accepted) = oneshot::channel();
            self.ask(Request::Fill { chunk: Box::new(chunk), taken_in }, accepted).await?;
            session.query_one(include_str!("../../../sql/backfill_watermark.sql"), &[&watermark]).await?;
            match told.await.map_err(|_| interrupted())? {
                Outcome::Taken => (last_key, spoiled) = (Some(key), 0),
                Outcome::Gone => return Err(deleted()),
                Outcome::Spoiled => {
                    spoiled = (spoiled + 1).min(20);
                    tokio::time::sleep(SPOILED_PAUSE * spoiled).await;
                    self.track(session, backfill, relation).await?;
                }
            }
        }
    }

    async fn last_key(&self, id: Uuid) -> Result<Option<Vec<String>>, Stop> {
        let queue = postgres::connect(&self.queue, "walhook backfill").await.map_err(|error| Stop::of(&error))?;
        let advanced = queue::advanced(&*queue, &[id]).await?;
        Ok(advanced.into_values().next().map(|advanced| advanced.last_key))
    }

    /// Has capture note what the stream tells from here on, and waits until the table's writers of this moment are
    /// over: what they committed may have passed before, and only then every snapshot sees it.
    async fn track(&self, session: &Session, backfill: &Backfill, relation: u32) -> Result<(), Stop> {
        let (done, tracking) = oneshot::channel();
        let tracker = Tracker::new(backfill.trigger_id, relation, backfill.key_columns.clone());
        self.ask(Request::Track { tracker, done }, tracking).await?;
        let (started, mut pause, mut said) = (Instant::now(), FIRST_LOOK, false);
        let mut awaited: Option<Vec<String>> = None;
        loop {
            let sql = include_str!("../../../sql/backfill_writers.sql");
            let row = session.query_one(sql, &[&relation, &backfill.id]).await?;
            check_state(row.get("state"))?;
            let writing: Vec<String> = row.get("writers");
            let left = match awaited {
                None => writing,
                Some(awaited) => awaited.into_iter().filter(|writer| writing.contains(writer)).collect(),
            };
            if left.is_empty() {
                return Ok(());
            }
            if !said && started.elapsed() > SAY_AFTER {
                said = true;
                info!(
                    trigger = backfill.trigger, backfill = %backfill.id, transactions = left.len(),
                    "backfill waits for open transactions that wrote to the table; see pg_locks"
                );
            }
            awaited = Some(left);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_LOOK);
        }
    }

    async fn ask(&self, request: Request, answer: oneshot::Receiver<()>) -> Result<(), Stop> {
        self.requests.send(request).await.map_err(|_| interrupted())?;
        answer.await.map_err(|_| interrupted())
    }

    /// The next rows; `None` where there are none.
    async fn read(
        &self,
        session: &Session,
        backfill: &Backfill,
        relation: u32,
        after: Option<&[String]>,
        outcome: oneshot::Sender<Outcome>,
    ) -> Result<Option<Chunk>, Stop> {
        // The lock comes before the snapshot: a table that is rewritten between the two would look empty.
        let name = table::name(&**session, relation).await?;
        let begin = format!(
            "begin isolation level repeatable read read only; lock table only {} in access share mode",
            quote(&name)
        );
        let locked = session.batch_execute(&begin).await;
        let read = match locked {
            Ok(()) => self.read_locked(session, backfill, relation, &name, after).await,
            // Renamed or dropped since its name was looked up: the next look tells.
            Err(error) if postgres::sqlstate(&error) == Some(&SqlState::UNDEFINED_TABLE) => Err(renamed()),
            Err(error) => Err(error.into()),
        };
        session.batch_execute("rollback").await?;
        let Some((table, last_key, looked_at, rows)) = read? else { return Ok(None) };
        Ok(Some(Chunk {
            watermark: Uuid::new_v4(),
            backfill_id: backfill.id,
            trigger_id: backfill.trigger_id,
            key: table.key_places(),
            relation: table.relation,
            rows,
            snapshot: table.snapshot,
            last_key,
            looked_at,
            outcome,
        }))
    }

    async fn read_locked(
        &self,
        session: &Session,
        backfill: &Backfill,
        relation: u32,
        name: &TableName,
        after: Option<&[String]>,
    ) -> Result<Option<(Table, Vec<String>, i64, Vec<Row>)>, Stop> {
        let table = Table::read(&**session, relation, &self.publication, Some(backfill.id)).await?;
        check_state(table.state.clone())?;
        if table.relation.table != *name {
            return Err(renamed());
        }
        if table.key_columns() != backfill.key_columns {
            let (then, now) = (backfill.key_columns.join(", "), table.key_columns().join(", "));
            return Err(Stop::Failed(format!(
                "the table's key was ({then}) and is ({now}) now; start another backfill"
            )));
        }
        let condition = backfill.condition.as_deref();
        let Some(end) = rows(session, &table.page(after, condition)).await?.pop() else { return Ok(None) };
        let width = backfill.key_columns.len();
        let last_key: Option<Vec<String>> =
            (0..width).map(|place| end.try_get(place).ok().flatten().map(str::to_owned)).collect();
        let looked_at = end.get(width).and_then(|count| count.parse().ok());
        let (mut last_key, mut looked_at) = last_key.zip(looked_at).expect(KEY_OF_TEXT);
        let (found, is_whole) = rows_of_page(session, &table.rows(after, condition, looked_at), &table).await?;
        if !is_whole {
            last_key = found.last().and_then(|row| table.key_of(row)).expect(KEY_OF_TEXT);
            let count = rows(session, &table.count_to(after, &last_key, looked_at)).await?.pop();
            looked_at = count.and_then(|row| row.get(0)?.parse().ok()).expect(KEY_OF_TEXT);
        }
        Ok(Some((table, last_key, i64::from(looked_at), found)))
    }
}

const KEY_OF_TEXT: &str = "columns of the key are NOT NULL, and rows are counted";

/// Rows of a page, and whether these are all of them.
async fn rows_of_page(session: &Session, query: &str, table: &Table) -> Result<(Vec<Row>, bool), Stop> {
    let mut read = std::pin::pin!(session.simple_query_raw(query).await?);
    let (mut found, mut bytes) = (Vec::new(), 0);
    while let Some(message) = read.try_next().await? {
        let SimpleQueryMessage::Row(row) = message else { continue };
        if bytes >= TEXT_BYTES {
            // The session gets over the rest by itself, a message at a time.
            return Ok((found, false));
        }
        let row = cells(&row, table.relation.columns.len());
        let row = row.ok_or_else(|| Stop::Failed("a value is not UTF-8, as in a database without encoding".into()))?;
        bytes += row.size();
        found.push(row);
    }
    Ok((found, true))
}

/// Rows by the simple protocol: only there every value comes as the text that its type's output function gives.
async fn rows(session: &Session, query: &str) -> Result<Vec<SimpleQueryRow>, Stop> {
    let messages = session.simple_query(query).await?;
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}

/// A row as the stream would have it; `None` where Postgres did not give UTF-8.
fn cells(row: &SimpleQueryRow, width: usize) -> Option<Row> {
    let texts: Vec<Option<&str>> = (0..width).map(|place| row.try_get(place).ok()).collect::<Option<_>>()?;
    Some(Row::of(texts.iter().map(|text| text.map(str::as_bytes))))
}

fn check_state(state: Option<String>) -> Result<(), Stop> {
    match state.as_deref() {
        Some("waiting" | "running") => Ok(()),
        _ => Err(Stop::Cancelled),
    }
}

fn renamed() -> Stop {
    Stop::Interrupted("a table was renamed or dropped just now".into())
}

/// Capture ended; the next one goes on.
fn interrupted() -> Stop {
    Stop::Interrupted("capture was interrupted".into())
}
