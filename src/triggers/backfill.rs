//! Asking for a table's existing rows. The node that captures the source does the work.

use deadpool_postgres::Transaction;
use serde::Serialize;
use uuid::Uuid;

use super::{Catalogue, Error, stored};
use crate::capture::backfill::{Table, Unreadable};
use crate::model::Timestamp;
use crate::postgres;
use crate::queue::{self, Advanced};

/// How far a backfill is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackfillStatus {
    /// Its id, which its events carry.
    pub id: Uuid,
    /// The trigger's name.
    pub trigger: String,
    /// SQL over the table's columns; none for all rows.
    #[serde(rename = "where")]
    pub condition: Option<String>,
    /// `waiting`, `running`, `done`, `failed` or `cancelled`.
    pub state: String,
    /// Rows of the whole table, by the planner's statistics.
    pub estimated_rows: Option<i64>,
    /// Rows that were looked at.
    pub looked_at: i64,
    /// Rows that are in the log.
    pub sent: i64,
    /// Rows that are not, because the stream had newer events of them.
    pub superseded: i64,
    /// When it was asked for.
    pub requested_at: String,
    /// When it ended.
    pub ended_at: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
}

impl BackfillStatus {
    /// Whether nothing more will come of it.
    pub fn is_over(&self) -> bool {
        !matches!(self.state.as_str(), "waiting" | "running")
    }
}

impl Catalogue {
    /// Asks for the existing rows of a trigger's table, those for which the condition holds. The condition is SQL, run
    /// with the rights of walhook's role in a transaction that can only read. Returns the backfill's id.
    ///
    /// # Errors
    /// [`Error::UnknownTrigger`], [`Error::NoBackfill`], [`Error::Condition`] and [`Error::Database`]; then nothing was
    /// made.
    pub async fn start_backfill(&self, name: &str, condition: Option<&str>) -> Result<Uuid, Error> {
        let mut client = self.pool.get().await?;
        let refuse = |reason: String| Error::NoBackfill { trigger: name.to_owned(), reason };
        let transaction = client.transaction().await?;
        let catalogue_id = self.catalogue_id(&*transaction).await?;
        let trigger = stored::find(&transaction, catalogue_id, name).await?;
        let trigger = trigger.ok_or_else(|| Error::UnknownTrigger(name.to_owned()))?;
        let relation = trigger.relation.ok_or_else(|| refuse("it is on custom events, which have no rows".into()))?;
        if trigger.definition.operations.is_empty() {
            return Err(refuse("it watches no operation, so nothing of its table is streamed; add one".into()));
        }
        let table = Table::read(&*transaction, relation, &self.source.publication, None).await;
        let table = table.map_err(|error| match error {
            Unreadable::Database(error) => error.into(),
            other => refuse(other.to_string()),
        })?;
        check_readable(&transaction, &table, condition, refuse).await?;
        let id = Uuid::new_v4();
        let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&id, &catalogue_id, &trigger.id, &condition, &table.key_columns(), &table.estimated_rows];
        transaction.query_one(include_str!("../../sql/backfill_request.sql"), values).await?;
        transaction.commit().await?;
        Ok(id)
    }

    /// Backfills of the source, the newest first, at most 1,000: all, those of one trigger, or one.
    ///
    /// # Errors
    /// What Postgres said.
    pub async fn backfills(&self, trigger: Option<&str>, id: Option<Uuid>) -> Result<Vec<BackfillStatus>, Error> {
        let client = self.pool.get().await?;
        // Postgres cannot take a NUL in a text, and no trigger has one in its name.
        if trigger.is_some_and(|name| name.contains('\0')) {
            return Ok(Vec::new());
        }
        let catalogue_id = self.catalogue_id(&**client).await?;
        let rows = client.query(include_str!("../../sql/backfill_list.sql"), &[&catalogue_id, &trigger, &id]).await?;
        // A queue in the same database has the same pool, which may be of one session.
        drop(client);
        let ids: Vec<Uuid> = rows.iter().map(|row| row.get("id")).collect();
        let mut advanced = queue::advanced(&**self.queue.get().await?, &ids).await?;
        let time = |micros: i64| Timestamp(micros).to_string();
        let mut status = |row: &tokio_postgres::Row| {
            let id: Uuid = row.get("id");
            let Advanced { looked_at, sent, superseded, .. } = advanced.remove(&id).unwrap_or_default();
            BackfillStatus {
                id,
                trigger: row.get("trigger"),
                condition: row.get("condition"),
                state: row.get("state"),
                estimated_rows: row.get("estimated_rows"),
                looked_at,
                sent,
                superseded,
                requested_at: time(row.get("requested_micros")),
                ended_at: row.get::<_, Option<i64>>("ended_micros").map(time),
                error: row.get("error"),
            }
        };
        Ok(rows.iter().map(&mut status).collect())
    }

    /// Ends a backfill before its next chunk. What is in the log already is delivered.
    ///
    /// # Errors
    /// [`Error::UnknownBackfill`] and [`Error::Database`].
    pub async fn cancel_backfill(&self, id: &str) -> Result<(), Error> {
        let unknown = || Error::UnknownBackfill(id.to_owned());
        let parsed: Uuid = id.parse().map_err(|_| unknown())?;
        let client = self.pool.get().await?;
        let sql = include_str!("../../sql/backfill_cancel.sql");
        let cancelled = client.execute(sql, &[&parsed, &self.catalogue_id(&**client).await?]).await?;
        if cancelled == 0 { Err(unknown()) } else { Ok(()) }
    }
}

/// Whether the condition is one, and the rows may be read. Nothing is read for it.
async fn check_readable(
    transaction: &Transaction<'_>,
    table: &Table,
    condition: Option<&str>,
    refuse: impl Fn(String) -> Error,
) -> Result<(), Error> {
    transaction.batch_execute("set local row_security = off").await?;
    if let Some(condition) = condition {
        if condition.contains('\0') {
            return Err(Error::Condition("it holds a zero byte".into()));
        }
        // Only one statement can be prepared, so nothing can hide behind the condition's end.
        let prepared = transaction.prepare(&table.rows(None, Some(condition), 1)).await;
        let prepared = prepared.map_err(|error| Error::Condition(postgres::Error::from(error).to_string()))?;
        if !prepared.params().is_empty() {
            return Err(Error::Condition("it has parameters such as $1, and nobody gives them values".into()));
        }
    }
    // Rights are looked at when a statement begins, which EXPLAIN does without running it.
    let explain = format!("explain {}", table.rows(None, condition, 1));
    let checked = transaction.query(&explain, &[]).await;
    checked.map(drop).map_err(|error| refuse(postgres::Error::from(error).to_string()))
}
