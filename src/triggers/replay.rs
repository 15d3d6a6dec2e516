//! Asking for a stretch of a trigger's log to be sent again. The nodes that deliver do the work.

use serde::Serialize;
use tokio_postgres::Client;
use uuid::Uuid;

use super::{Catalogue, Error, stored};
use crate::model::{EventId, Timestamp};
use crate::queue;

/// Where a replay begins. Times and positions are texts that Postgres reads; times in UTC unless they say otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayFrom {
    /// With the events of commits at this time or later.
    Time(String),
    /// With the events of commits at this LSN or later.
    Lsn(String),
    /// With this event, by its id.
    Id(String),
}

/// What is to be sent again, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayRequest {
    /// Its begin.
    pub from: ReplayFrom,
    /// Its last event, by its id; without it, the last one that the log has now.
    pub to_id: Option<String>,
    /// Events a second at most.
    pub rate: Option<u32>,
}

/// How far a replay is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReplayStatus {
    /// Its id, which its requests carry.
    pub id: Uuid,
    /// The trigger's name.
    pub trigger: String,
    /// `running`, `done`, `failed` or `cancelled`.
    pub state: String,
    /// In the stretch, when it was asked for.
    pub events: i64,
    /// Made due so far.
    pub queued: i64,
    /// Left out, because they waited to be sent anyway.
    pub skipped: i64,
    /// Of those made due, not done yet.
    pub waiting: i64,
    /// Events a second at most.
    pub rate: Option<i32>,
    /// When it was asked for.
    pub requested_at: String,
    /// When it ended.
    pub ended_at: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
}

impl ReplayStatus {
    /// Whether nothing more will come of it.
    pub fn is_over(&self) -> bool {
        self.state != "running"
    }
}

impl Catalogue {
    /// Asks for events of a trigger to be sent again, in their order, or with `dry_run` only counts them. Gives the
    /// replay's id, where there is one, and how many events the stretch has.
    ///
    /// # Errors
    /// [`Error::UnknownTrigger`], [`Error::EventNotFound`], [`Error::Range`] and [`Error::Database`]; then nothing is
    /// sent.
    pub async fn start_replay(
        &self,
        name: &str,
        request: &ReplayRequest,
        dry_run: bool,
    ) -> Result<(Option<Uuid>, i64), Error> {
        let mut client = self.queue.get().await?;
        let unknown = || Error::UnknownTrigger(name.to_owned());
        let transaction = client.transaction().await?;
        let source_id = self.queue_id(&*transaction).await?;
        let trigger_id = stored::find(&transaction, source_id, name).await?.ok_or_else(unknown)?.id;
        // Nobody has to wait while the events are counted, which may take long.
        transaction.commit().await?;
        let (mut from_time, mut from_lsn, mut from_seq, mut to_seq) = (None, None, None, None);
        match &request.from {
            ReplayFrom::Time(time) => from_time = Some(time),
            ReplayFrom::Lsn(lsn) => from_lsn = Some(lsn),
            ReplayFrom::Id(id) => from_seq = Some(seq_of(&client, id, trigger_id, source_id).await?),
        }
        if let Some(id) = &request.to_id {
            to_seq = Some(seq_of(&client, id, trigger_id, source_id).await?);
        }
        let range = include_str!("../../sql/replay_range.sql");
        let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&trigger_id, &source_id, &from_time, &from_lsn, &from_seq, &to_seq];
        let range = client.query_one(range, values).await.map_err(Error::of_range)?;
        let (first_seq, last_seq, events): (i64, i64, i64) = (range.get(0), range.get(1), range.get(2));
        if dry_run {
            return Ok((None, events));
        }
        let transaction = client.transaction().await?;
        let found = stored::find(&transaction, source_id, name).await?;
        found.filter(|trigger| trigger.id == trigger_id).ok_or_else(unknown)?;
        let id = Uuid::new_v4();
        let rate = request.rate.map(|rate| i32::try_from(rate).unwrap_or(i32::MAX));
        let done_to = first_seq - 1;
        let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&id, &trigger_id, &source_id, &from_time, &from_lsn, &done_to, &last_seq, &rate, &events];
        transaction.query_one(include_str!("../../sql/replay_request.sql"), values).await?;
        transaction.commit().await?;
        Ok((Some(id), events))
    }

    /// Replays of the source, the newest first, at most 1,000: all, those of one trigger, or one.
    ///
    /// # Errors
    /// What Postgres said.
    pub async fn replays(&self, trigger: Option<&str>, id: Option<Uuid>) -> Result<Vec<ReplayStatus>, Error> {
        // Postgres cannot take a NUL in a text, and no trigger has one in its name.
        if trigger.is_some_and(|name| name.contains('\0')) {
            return Ok(Vec::new());
        }
        let client = self.queue.get().await?;
        let sql = include_str!("../../sql/replay_list.sql");
        let rows = client.query(sql, &[&self.source.name, &trigger, &id]).await?;
        let time = |micros: i64| Timestamp(micros).to_string();
        let status = |row: &tokio_postgres::Row| ReplayStatus {
            id: row.get("id"),
            trigger: row.get("trigger"),
            state: row.get("state"),
            events: row.get("events"),
            queued: row.get("queued"),
            skipped: row.get("skipped"),
            waiting: row.get("waiting"),
            rate: row.get("rate"),
            requested_at: time(row.get("requested_micros")),
            ended_at: row.get::<_, Option<i64>>("ended_micros").map(time),
            error: row.get("error"),
        };
        Ok(rows.iter().map(status).collect())
    }

    /// Ends a replay: what it made due and was not sent yet is not sent. Requests under way end, and retries go on.
    ///
    /// # Errors
    /// [`Error::UnknownReplay`] and [`Error::Database`].
    pub async fn cancel_replay(&self, id: &str) -> Result<(), Error> {
        let unknown = || Error::UnknownReplay(id.to_owned());
        let parsed: Uuid = id.parse().map_err(|_| unknown())?;
        let mut client = self.queue.get().await?;
        let transaction = client.transaction().await?;
        let source_id = self.queue_id(&*transaction).await?;
        let cancel = include_str!("../../sql/replay_cancel.sql");
        if transaction.execute(cancel, &[&parsed, &source_id]).await? == 0 {
            return Err(unknown());
        }
        queue::forget_replay(&transaction, parsed).await?;
        Ok(transaction.commit().await?)
    }
}

/// Where an event of the trigger stands in the log of its source.
async fn seq_of(client: &Client, id: &str, trigger_id: Uuid, source_id: i16) -> Result<i64, Error> {
    let id: EventId = id.parse().map_err(|_| Error::EventNotFound)?;
    let sql = include_str!("../../sql/replay_event.sql");
    let row = client.query_opt(sql, &[&id, &trigger_id, &source_id]).await?;
    Ok(row.ok_or(Error::EventNotFound)?.get(0))
}
