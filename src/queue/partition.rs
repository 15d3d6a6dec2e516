//! One partition a day for the log and for the attempts.

use std::collections::HashSet;

use chrono::{DateTime, NaiveDate};
use tokio_postgres::GenericClient;

use crate::postgres::Error;

const DAY_SECONDS: i64 = 86_400;
const PARTITIONED: [&str; 2] = ["event", "attempt"];

/// The days whose partitions are known to exist, so that an append need not ask.
#[derive(Debug, Default)]
pub struct Partitions {
    known: HashSet<i64>,
}

impl Partitions {
    /// Makes what is missing of these days (counted from 1970-01-01 UTC). Best outside a transaction: it locks the log
    /// against other changes of its shape until the transaction's end.
    ///
    /// # Errors
    /// What Postgres said.
    pub async fn ensure(&mut self, client: &impl GenericClient, days: impl Iterator<Item = i64>) -> Result<(), Error> {
        let mut missing: Vec<i64> = days.filter(|day| !self.known.contains(day)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        missing.sort_unstable();
        missing.dedup();
        ensure_partitions(client, &missing).await?;
        self.known.extend(missing);
        Ok(())
    }
}

/// Makes the partitions `walhook.event_YYYYMMDD` and `walhook.attempt_YYYYMMDD` of these days, given in days since the
/// Unix epoch (UTC), where they do not exist. May be called inside a transaction and outside one, also by several
/// callers at once; where nothing is missing it takes no lock.
///
/// # Errors
/// What Postgres said.
pub async fn ensure_partitions(client: &impl GenericClient, days: &[i64]) -> Result<(), Error> {
    let names: Vec<String> = days
        .iter()
        .flat_map(|day| PARTITIONED.map(|parent| format!("{parent}_{}", date(*day).format("%Y%m%d"))))
        .collect();
    let missing = client.query(include_str!("../../sql/partition_missing.sql"), &[&names]).await?;
    for row in missing {
        let name: &str = row.get(0);
        let index = names.iter().position(|wanted| wanted == name);
        let Some(day) = index.and_then(|index| days.get(index / PARTITIONED.len())) else { continue };
        client.batch_execute(&create(name, *day)).await?;
    }
    Ok(())
}

/// The statement that makes one partition. ATTACH takes SHARE UPDATE EXCLUSIVE on the parent, where CREATE TABLE ...
/// PARTITION OF would take ACCESS EXCLUSIVE and so wait for, and hold up, every COPY and every reader of the log. One
/// statement, so that outside a transaction too the advisory lock (walhook, 3) is held to its end.
fn create(name: &str, day: i64) -> String {
    let parent = name.split('_').next().unwrap_or(name);
    let (from, to) = (date(day), date(day + 1));
    let table = like_parent(name, parent, None);
    // Whether it exists is asked of pg_class and not of to_regclass, whose cache an advisory lock does not refresh.
    format!(
        "do $$
begin
    perform pg_advisory_xact_lock(hashtext('walhook'), 3);
    if not exists (select from pg_class where relname = '{name}' and relnamespace = 'walhook'::regnamespace) then
        {table};
        alter table walhook.{parent} attach partition walhook.{name}
            for values from ('{from} 00:00:00+00') to ('{to} 00:00:00+00');
    end if;
end
$$"
    )
}

/// The statement that makes a table that can become a partition. With `day` it is one that is to be filled first: then
/// it has the indexes and the proof of its bounds already, so that ATTACH need neither make nor read anything.
pub(super) fn like_parent(name: &str, parent: &str, day: Option<i64>) -> String {
    let (indexes, bounds) = match day {
        None => ("", String::new()),
        Some(day) => {
            let key = if parent == "event" { "committed_at" } else { "started_at" };
            let (from, to) = (date(day), date(day + 1));
            let bounds = format!(", check ({key} >= '{from} 00:00:00+00' and {key} < '{to} 00:00:00+00')");
            (" including indexes", bounds)
        }
    };
    // A row of some kilobytes stays in the page: fetching it back needs no second table.
    format!(
        "create table walhook.{name} (like walhook.{parent} including defaults including constraints{indexes}{bounds})
            with (toast_tuple_target = 8160)"
    )
}

pub(super) fn date(day: i64) -> NaiveDate {
    DateTime::from_timestamp(day.saturating_mul(DAY_SECONDS), 0).unwrap_or_default().date_naive()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_holds_one_day_of_utc() {
        let sql = create("attempt_20180905", 17_779);
        assert!(sql.contains("attach partition walhook.attempt_20180905"), "{sql}");
        assert!(sql.contains("from ('2018-09-05 00:00:00+00') to ('2018-09-06 00:00:00+00')"), "{sql}");
        assert!(sql.contains("alter table walhook.attempt "), "{sql}");
    }
}
