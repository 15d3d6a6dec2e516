//! Day partitions of the event and attempt logs.

use std::collections::HashSet;

use tokio_postgres::GenericClient;

use crate::postgres;

/// The days whose partitions are known to exist, so that an append need not ask.
#[derive(Debug, Default)]
pub struct Partitions {
    known: HashSet<i64>,
}

impl Partitions {
    /// Makes what is missing of these days (counted from 1970-01-01 UTC). Outside any transaction: it takes a lock on
    /// the log that would otherwise be held until the transaction's end.
    ///
    /// # Errors
    /// What Postgres said.
    pub async fn ensure(
        &mut self,
        client: &impl GenericClient,
        days: impl Iterator<Item = i64>,
    ) -> Result<(), postgres::Error> {
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

/// Makes the partitions of these days (counted from 1970-01-01 UTC) where they do not exist.
///
/// # Errors
/// What Postgres said.
pub async fn ensure_partitions(client: &impl GenericClient, days: &[i64]) -> Result<(), postgres::Error> {
    for day in days {
        client.batch_execute(&partition_sql("event", "committed_at", *day)).await?;
        client.batch_execute(&partition_sql("attempt", "started_at", *day)).await?;
    }
    Ok(())
}

/// The table is made on its own and then attached: attaching lets others go on reading and writing the log.
/// `toast_tuple_target` keeps rows of up to a page whole and uncompressed: compressing them would cost the append more
/// than writing them.
fn partition_sql(log: &str, time_column: &str, day: i64) -> String {
    let date = |day: i64| {
        let seconds = day.saturating_mul(86_400);
        chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default().date_naive()
    };
    let (from, to) = (date(day), date(day + 1));
    let name = format!("{log}_{}", from.format("%Y%m%d"));
    format!(
        "do $$
         begin
             perform pg_advisory_xact_lock(hashtext('walhook partition'), 0);
             if to_regclass('walhook.{name}') is null then
                 create table walhook.{name} (
                     like walhook.{log} including defaults,
                     check ({time_column} >= '{from} 00:00:00+00' and {time_column} < '{to} 00:00:00+00')
                 ) with (toast_tuple_target = 8160);
                 alter table walhook.{log} attach partition walhook.{name}
                     for values from ('{from} 00:00:00+00') to ('{to} 00:00:00+00');
             end if;
         end
         $$"
    )
}
