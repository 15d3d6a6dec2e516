//! Old partitions: dropped by age once nothing in them is pending, while what is dead or waits stays where it is.

mod replace;
mod watch;

pub use watch::look_after;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{NaiveDate, NaiveDateTime};

use self::replace::{Contents, Done};
use super::Error;
use super::partition::ensure_partitions;
use crate::model::Timestamp;
use crate::postgres::Session;

/// Partitions are made this many days ahead, so that no append waits for one at midnight.
const AHEAD_DAYS: i64 = 2;

/// How long events are kept, counted from the end of the day (UTC) on which they committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Events that were delivered, and attempts a day longer.
    pub events: Duration,
    /// Events that are dead, from the day of their last attempt on; at least as long as `events`.
    pub dead: Duration,
}

/// What was done with old partitions, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Gone.
    pub dropped: Vec<String>,
    /// Hold only events that are dead or wait now, or their attempts.
    pub reduced: Vec<String>,
    /// Hold events of these triggers that are still to be sent or replayed; they stay as they are.
    pub held: BTreeMap<String, Vec<String>>,
    /// Were in use all the time; to be tried again.
    pub in_use: Vec<String>,
    /// Could not be dropped or reduced, and why.
    pub failed: BTreeMap<String, String>,
}

/// Looks after partitions, and remembers which ones need not be looked at again for a while.
#[derive(Debug)]
pub struct Keeper {
    retention: Retention,
    /// Days of which all stays that is there now, and when that was found.
    settled: HashMap<(Contents, i64), Timestamp>,
}

/// What is dead may have been redelivered by then, so that less stays. To find out what stays costs a read of all that
/// is dead or waits.
const LOOK_AGAIN: Duration = Duration::from_secs(86_400);

impl Keeper {
    /// One that remembers nothing yet.
    pub fn new(retention: Retention) -> Keeper {
        Keeper { retention, settled: HashMap::new() }
    }

    /// Makes the partitions of the next days, and drops old ones, or what need not be kept of them. `None` when another
    /// session is at it. Each partition is a transaction of its own, so an end in the middle leaves nothing half done,
    /// and one that fails does not keep the others.
    ///
    /// # Errors
    /// What Postgres said, where the session is lost or it is about all partitions.
    pub async fn round(&mut self, session: &mut Session, now: Timestamp) -> Result<Option<Round>, Error> {
        let locked = session.query_one(include_str!("../../../sql/retention_lock.sql"), &[]).await?;
        if !locked.get::<_, bool>(0) {
            return Ok(None);
        }
        let round = self.work(session, now).await;
        session.execute(include_str!("../../../sql/retention_unlock.sql"), &[]).await?;
        round.map(Some)
    }

    async fn work(&mut self, session: &mut Session, now: Timestamp) -> Result<Round, Error> {
        let Retention { events, dead } = self.retention;
        let today = now.unix_day();
        let days: Vec<i64> = (today..=today + AHEAD_DAYS).collect();
        ensure_partitions(&**session, &days).await?;
        let again = LOOK_AGAIN.min(events).as_secs();
        self.settled.retain(|_, found| (*found..found.plus_seconds(again)).contains(&now));
        let mut round = Round::default();
        // Attempts stay as long as their events: from here on it is not settled which events do.
        let mut unsettled = i64::MAX;
        let seconds = i64::try_from(dead.max(events).as_secs()).unwrap_or(i64::MAX);
        let dead_since = Timestamp(now.0.saturating_sub(seconds.saturating_mul(1_000_000))).unix_day();
        for day in partition_days(session, "event").await? {
            if !is_over(day, events, now) {
                break;
            }
            let done = self.replace(session, Contents::Events { dead_since }, day, now).await?;
            if matches!(done, Done::Held(_) | Done::InUse) {
                unsettled = unsettled.min(day);
            }
            round.note(replace::name("event", day), done);
        }
        if !round.dropped.is_empty() || !round.reduced.is_empty() {
            self.settled.retain(|(contents, _), _| *contents != Contents::Attempts);
        }
        for day in partition_days(session, "attempt").await? {
            // An event's attempts can lie a little before it: two machines' clocks tell their times.
            if !is_over(day + 1, events, now) || day + 1 >= unsettled {
                break;
            }
            let done = self.replace(session, Contents::Attempts, day, now).await?;
            round.note(replace::name("attempt", day), done);
        }
        Ok(round)
    }

    /// Drops a day's partition or what need not be kept of it, where it is not settled that all stays.
    async fn replace(
        &mut self,
        session: &mut Session,
        contents: Contents,
        day: i64,
        now: Timestamp,
    ) -> Result<Done, Error> {
        if self.settled.contains_key(&(contents, day)) {
            return Ok(Done::Nothing);
        }
        match replace::replace(session, contents, day).await {
            Err(error) if !session.is_closed() => Ok(Done::Failed(error.to_string())),
            done => {
                let done = done?;
                if matches!(done, Done::Nothing | Done::Reduced) {
                    self.settled.insert((contents, day), now);
                }
                Ok(done)
            }
        }
    }
}

impl Round {
    fn note(&mut self, name: String, done: Done) {
        match done {
            Done::Dropped => self.dropped.push(name),
            Done::Reduced => self.reduced.push(name),
            Done::Nothing => {}
            Done::Held(triggers) => drop(self.held.insert(name, triggers)),
            Done::InUse => self.in_use.push(name),
            Done::Failed(reason) => drop(self.failed.insert(name, reason)),
        }
    }
}

/// Whether a day has been over for so long.
fn is_over(day: i64, for_so_long: Duration, now: Timestamp) -> bool {
    Timestamp::at_unix_day(day + 1).plus_seconds(for_so_long.as_secs()) <= now
}

/// The days of a table's partitions, oldest first.
async fn partition_days(session: &Session, parent: &str) -> Result<Vec<i64>, Error> {
    let rows = session.query(include_str!("../../../sql/retention_partitions.sql"), &[&parent]).await?;
    Ok(rows.iter().filter_map(|row| day_of(row.get(0))).collect())
}

/// The day in a partition's name; none in that of a partition which is not ours.
fn day_of(name: &str) -> Option<i64> {
    let (_, date) = name.rsplit_once('_')?;
    let midnight = NaiveDateTime::from(NaiveDate::parse_from_str(date, "%Y%m%d").ok()?);
    Some(Timestamp(midnight.and_utc().timestamp_micros()).unix_day())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partitions_age_counts_from_the_end_of_its_day() {
        let day = day_of("event_20180905").expect("a day");
        assert_eq!(day, 17_779);
        let week = Duration::from_secs(7 * 86_400);
        let end = Timestamp::at_unix_day(day + 8);
        assert!(is_over(day, week, end));
        assert!(!is_over(day, week, Timestamp(end.0 - 1)));
        assert_eq!((day_of("event"), day_of("event_next")), (None, None));
        assert_eq!(replace::name("event", day), "event_20180905");
    }
}
