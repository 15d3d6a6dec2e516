//! What a measurement costs: CPU time of everything that takes part, commits, and what was read back from the log.

use std::time::Duration;

use super::figure::Cost;
use super::ground::{Database, Ground};
use super::machine::{cpu_time, cpu_time_of_family};
use crate::cli::stage::Walhook;

/// Counts from its start. Where that is walhook's own, a few milliseconds of starting count as well.
pub(super) struct Meter<'a> {
    ground: &'a Ground,
    database: &'a Database<'a>,
    walhooks: Vec<u32>,
    cpu_before: [Duration; 3],
    cpu_used: [Duration; 3],
    counted_before: [f64; 2],
}

impl<'a> Meter<'a> {
    /// From now on, of one walhook or several together.
    ///
    /// # Errors
    /// What Postgres said.
    pub async fn start(
        ground: &'a Ground,
        database: &'a Database<'a>,
        walhooks: &[Walhook],
    ) -> anyhow::Result<Meter<'a>> {
        let counted_before = counted(database).await?;
        let walhooks: Vec<u32> = walhooks.iter().map(Walhook::process_id).collect();
        let cpu_before = cpu(ground, &walhooks);
        Ok(Meter { ground, database, walhooks, cpu_before, cpu_used: Default::default(), counted_before })
    }

    /// Reads the CPU times, which is only possible while walhook runs.
    pub fn stop(&mut self) {
        let after = cpu(self.ground, &self.walhooks);
        self.cpu_used = std::array::from_fn(|index| after[index].saturating_sub(self.cpu_before[index]));
    }

    /// All of it, once walhook has ended: a session's counts are complete when it is over.
    ///
    /// # Errors
    /// What Postgres said.
    pub async fn read(&self, rows: u64) -> anyhow::Result<Cost> {
        let after = counted(self.database).await?;
        let micros = |index: usize| self.cpu_used[index].as_secs_f64() * 1_000_000.0 / rows as f64;
        let count = |index: usize| (after[index] - self.counted_before[index]) / rows as f64;
        Ok(Cost {
            walhook_micros: micros(0),
            postgres_micros: micros(1),
            receiver_micros: micros(2),
            log_reads: count(0),
            commits: count(1),
        })
    }
}

fn cpu(ground: &Ground, walhooks: &[u32]) -> [Duration; 3] {
    let postgres = ground.cluster().process_id().map_or(Duration::ZERO, cpu_time_of_family);
    [walhooks.iter().copied().map(cpu_time).sum(), postgres, cpu_time(ground.receiver_process())]
}

async fn counted(database: &Database<'_>) -> anyhow::Result<[f64; 2]> {
    let query = "select (select coalesce(sum(idx_tup_read), 0) from pg_stat_user_indexes \
                         where schemaname = 'walhook' and relname like 'event%')::float8, xact_commit::float8 \
                 from pg_stat_database where datname = current_database()";
    let row = database.session.query_one(query, &[]).await?;
    Ok([row.get(0), row.get(1)])
}
