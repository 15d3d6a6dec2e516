//! Reading the event log back: what delivery was not handed in memory.

use std::collections::HashSet;

use futures_util::TryStreamExt;
use serde_json::Value;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, GenericClient};
use uuid::Uuid;

use super::row::{LastSubject, logged};
use super::{Error, Floor, Logged};

/// A stretch of the log, and how much of it at most.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The first event has a greater seq.
    pub after: i64,
    /// The last event has this seq or a smaller one.
    pub up_to: i64,
    /// Rows at most.
    pub rows: i64,
    /// Bytes of row text and context at most, passed by one row at most.
    pub bytes: i64,
    /// Each lane's events up to here are left out.
    pub floor: Floor,
}

const READ: &str = include_str!("../../sql/backlog_read.sql");

/// Events that were read back.
#[derive(Debug, Default)]
pub struct Backlog {
    /// In the order of the log.
    pub events: Vec<Logged>,
    /// Whether there are no more within the stretch that was asked for.
    pub complete: bool,
    /// Much more than the bound of bytes is still on its way: the session is to be closed, not waited for.
    pub session_is_busy: bool,
}

/// A trigger's next events, by a transaction of their own. Where it is not waited for to its end, or fails, and where
/// it says so ([`Backlog::session_is_busy`]), the session is to be closed.
///
/// # Errors
/// [`Error::Corrupt`] for an event that does not read back; otherwise what Postgres said.
pub async fn read_backlog(
    client: &mut Client,
    trigger_id: Uuid,
    source_id: i16,
    bounds: Bounds,
) -> Result<Backlog, Error> {
    let Bounds { after, up_to, rows, floor, .. } = bounds;
    let floor = floor.as_slice();
    let transaction = client.build_transaction().read_only(true).start().await?;
    let statement = transaction.prepare(READ).await?;
    let parameters: [&(dyn ToSql + Sync); 6] = [&trigger_id, &source_id, &after, &up_to, &rows, &floor];
    let portal = transaction.bind(&statement, &parameters).await?;
    let mut backlog = Backlog::default();
    let (mut portions, mut last_subject) = (Portions::new(bounds), LastSubject::default());
    while let Some(portion) = portions.next() {
        let mut read = std::pin::pin!(transaction.query_portal_raw(&portal, portion).await?);
        // Row by row, so that they are not in memory twice.
        while let Some(row) = read.try_next().await? {
            if !portions.are_open() {
                if portions.is_too_much(row.raw_size_bytes()) {
                    backlog.session_is_busy = true;
                    return Ok(backlog);
                }
                continue;
            }
            let logged = logged(&row, (source_id, row.get(0)), trigger_id, 1, &mut last_subject)?;
            portions.took(logged.event.size());
            backlog.events.push(logged);
        }
        // A portion that is full ends without saying how many rows there were.
        if read.rows_affected().is_some() {
            backlog.complete = portions.are_open();
            break;
        }
    }
    transaction.commit().await?;
    Ok(backlog)
}

/// How a read goes on towards its bounds: by rows like those before, so that little comes in vain.
#[derive(Debug)]
struct Portions {
    rows_left: i64,
    bytes_left: i64,
    rows: i64,
    bytes: i64,
    in_vain_left: i64,
}

const FIRST_PORTION: i64 = 16;
/// Rows may get larger from one to the next: a portion is so many times what came before it at most.
const GROWTH: i64 = 8;
/// So many bytes may always come in vain: a new session costs more.
const LITTLE: i64 = 1024 * 1024;

impl Portions {
    fn new(bounds: Bounds) -> Portions {
        let Bounds { rows, bytes, .. } = bounds;
        Portions { rows_left: rows, bytes_left: bytes.max(1), rows: 0, bytes: 0, in_vain_left: bytes.max(LITTLE) }
    }

    /// Whether one more event is to be taken.
    fn are_open(&self) -> bool {
        self.rows_left > 0 && self.bytes_left > 0
    }

    /// How many rows to ask for; none where there were enough.
    fn next(&self) -> Option<i32> {
        if !self.are_open() {
            return None;
        }
        let most = if self.rows == 0 { FIRST_PORTION } else { self.rows.saturating_mul(GROWTH) };
        let usual_size = (self.bytes / self.rows.max(1)).max(1);
        let portion = (self.bytes_left / usual_size).saturating_add(1).min(most).min(self.rows_left);
        Some(i32::try_from(portion).unwrap_or(i32::MAX))
    }

    fn took(&mut self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.rows_left -= 1;
        self.rows += 1;
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Whether what came beyond the bounds, with so much more, costs more than a new session.
    fn is_too_much(&mut self, bytes: usize) -> bool {
        self.in_vain_left = self.in_vain_left.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.in_vain_left < 0
    }
}

/// A stretch of a trigger's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The trigger.
    pub trigger_id: Uuid,
    /// Its source.
    pub source_id: i16,
    /// It begins after this seq.
    pub after: i64,
    /// It ends with this one.
    pub up_to: i64,
}

/// The triggers that have events in these stretches, in whichever lanes.
///
/// # Errors
/// What Postgres said.
pub async fn triggers_with_events(client: &impl GenericClient, stretches: &[Stretch]) -> Result<HashSet<Uuid>, Error> {
    fn column<T>(stretches: &[Stretch], of: impl Fn(&Stretch) -> T) -> Vec<T> {
        stretches.iter().map(of).collect()
    }
    let triggers = column(stretches, |stretch| stretch.trigger_id);
    let sources = column(stretches, |stretch| stretch.source_id);
    let (after, up_to) = (column(stretches, |stretch| stretch.after), column(stretches, |stretch| stretch.up_to));
    let sql = include_str!("../../sql/backlog_exists.sql");
    let rows = client.query(sql, &[&triggers, &sources, &after, &up_to]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What a read of a trigger's next events costs, were it not ended by its bytes: it is done, and what Postgres says of
/// it given (EXPLAIN with ANALYZE and BUFFERS, as JSON).
///
/// # Errors
/// What Postgres said.
pub async fn explain_backlog(
    client: &impl GenericClient,
    trigger_id: Uuid,
    source_id: i16,
    bounds: Bounds,
) -> Result<Value, Error> {
    let sql = format!("explain (analyze, buffers, format json) {READ}");
    let Bounds { after, up_to, rows, floor, .. } = bounds;
    let row = client.query_one(&sql, &[&trigger_id, &source_id, &after, &up_to, &rows, &floor.as_slice()]).await?;
    Ok(row.get(0))
}

/// The events after their lanes' cursors that are done or deferred.
///
/// # Errors
/// What Postgres said.
pub async fn dealt_with_after(
    client: &impl GenericClient,
    trigger_id: Uuid,
    source_id: i16,
    floor: &Floor,
) -> Result<HashSet<i64>, Error> {
    let after = floor.iter().copied().min().unwrap_or(0);
    let sql = include_str!("../../sql/attempt_after.sql");
    let floor = floor.as_slice();
    let parameters: [&(dyn ToSql + Sync); 4] = [&trigger_id, &source_id, &after, &floor];
    // Row by row, as there may be very many.
    let rows = client.query_raw(sql, parameters).await?;
    Ok(rows.map_ok(|row| row.get::<_, i64>(0)).try_collect().await?)
}

/// The last seq of each source's log, for a delivery that is not handed events in memory.
///
/// # Errors
/// What Postgres said.
pub async fn heads(client: &impl GenericClient) -> Result<Vec<(i16, i64)>, Error> {
    let rows = client.query(include_str!("../../sql/log_head.sql"), &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The portions that are asked for where each row has this size, and how many rows are taken.
    fn portions(rows: i64, bytes: i64, size: usize) -> (Vec<i32>, i64) {
        let mut portions = Portions::new(Bounds { after: 0, up_to: i64::MAX, rows, bytes, floor: [0; 16] });
        let mut asked = Vec::new();
        while let Some(portion) = portions.next() {
            asked.push(portion);
            for _ in 0..portion {
                if portions.are_open() {
                    portions.took(size);
                }
            }
        }
        (asked, portions.rows)
    }

    #[test]
    fn portions_grow_to_what_the_bounds_allow() {
        assert_eq!(portions(1000, 1_000_000, 100), (vec![16, 128, 856], 1000));
        assert_eq!(portions(1, 1_000_000, 100), (vec![1], 1));
        assert_eq!(portions(1000, 10_000, 100), (vec![16, 85], 100));
        assert_eq!(portions(1000, 10_000, 0), (vec![16, 128, 856], 1000));
    }

    #[test]
    fn a_row_larger_than_the_bound_is_taken_alone() {
        assert_eq!(portions(1000, 10_000, 20_000), (vec![16], 1));
        assert_eq!(portions(1000, 0, 20_000), (vec![2], 1));
    }

    #[test]
    fn what_comes_in_vain_is_bounded() {
        let mut portions = Portions::new(Bounds { after: 0, up_to: 9, rows: 9, bytes: 100, floor: [0; 16] });
        assert!(!portions.is_too_much(600_000));
        assert!(portions.is_too_much(600_000));
    }
}
