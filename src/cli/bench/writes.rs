//! What capture costs the application: pgbench with and without.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;

use super::figure::{Figure, Goal, Sample, What};
use super::ground::{Database, Ground, program};
use super::receiver::COUNTED;
use super::statistics::median;
use super::{Plan, say};

const CLIENTS: &str = "4";
/// 100,000 accounts, which fit into the server's memory.
const SCALE: &str = "1";
const SPARE: Duration = Duration::from_secs(60);

/// Measures both sides in each round, which of them first by turns; `None` without pgbench.
///
/// # Errors
/// Where pgbench or walhook fails.
pub(super) async fn measure(ground: &Ground, plan: &Plan) -> anyhow::Result<Option<Figure>> {
    if !ground.cluster().bin_dir().join("pgbench").is_file() {
        return Ok(None);
    }
    let (mut samples, mut shares) = (Vec::new(), Vec::new());
    for round in 1..=plan.rounds {
        say(&format!("the application's writes, round {round} of {}", plan.rounds));
        let (floor, captured) = if round % 2 == 1 {
            let floor = alone(ground, plan).await?;
            (floor, captured(ground, plan).await?)
        } else {
            let captured = captured(ground, plan).await?;
            (alone(ground, plan).await?, captured)
        };
        samples.push(Sample::new(Some(floor), captured.rate));
        shares.push(captured.delivered_share);
    }
    let case = format!("simple-update, {CLIENTS} clients");
    let share = median(&shares).unwrap_or_default() * 100.0;
    let note = format!("{share:.0} % of the updates had reached the receiver when pgbench ended");
    let figure = Figure::of(What::Writes, case, samples, Goal::AtLeast(0.95), None);
    Ok(figure.map(|figure| figure.noting(note)))
}

/// Transactions a second with nobody watching.
async fn alone(ground: &Ground, plan: &Plan) -> anyhow::Result<f64> {
    let database = prepare(ground).await?;
    let rate = update(ground, &database, plan.writes_time).await?;
    database.remove().await?;
    Ok(rate)
}

struct Captured {
    rate: f64,
    delivered_share: f64,
}

async fn captured(ground: &Ground, plan: &Plan) -> anyhow::Result<Captured> {
    let database = prepare(ground).await?;
    let mut walhook = database.watch("public", "pgbench_accounts", "update", COUNTED).await?;
    ground.reset_receiver().await?;
    let rate = update(ground, &database, plan.writes_time).await?;
    walhook.check()?;
    let made: i64 = database.session.query_one("select count(*) from public.pgbench_history", &[]).await?.get(0);
    let delivered_share = ground.received().await? as f64 / made.max(1) as f64;
    database.stop(walhook).await?;
    database.remove().await?;
    Ok(Captured { rate, delivered_share })
}

async fn prepare(ground: &Ground) -> anyhow::Result<Database<'_>> {
    let database = ground.database().await?;
    pgbench(ground, &database, &["--initialize", "--quiet", "--scale", SCALE], SPARE).await?;
    database.session.batch_execute("checkpoint").await?;
    Ok(database)
}

async fn update(ground: &Ground, database: &Database<'_>, time: Duration) -> anyhow::Result<f64> {
    let seconds = time.as_secs().max(1).to_string();
    let arguments = ["--skip-some-updates", "--no-vacuum", "--client", CLIENTS, "--time", &seconds];
    let printed = pgbench(ground, database, &arguments, time + SPARE).await?;
    rate_in(&printed).with_context(|| format!("pgbench gives no rate:\n{printed}"))
}

async fn pgbench(
    ground: &Ground,
    database: &Database<'_>,
    arguments: &[&str],
    within: Duration,
) -> anyhow::Result<String> {
    let mut command = program(ground, "pgbench", &database.name);
    command.args(arguments).arg(&database.name).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::time::timeout(within, command.output()).await.context("pgbench does not end")??;
    let errors = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "pgbench failed ({}): {errors}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn rate_in(printed: &str) -> Option<f64> {
    let line = printed.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_from_what_pgbench_prints() {
        let printed = "latency average = 1.9 ms\ntps = 2103.417 (without initial connection time)\n";
        assert_eq!(rate_in(printed), Some(2103.417));
        assert_eq!(rate_in("nothing"), None);
    }
}
