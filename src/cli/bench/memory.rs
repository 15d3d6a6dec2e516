//! How much memory the walhook process takes: idle, while one huge transaction goes through it, and with many events
//! behind an endpoint that is down.

use std::time::{Duration, Instant};

use super::figure::{Figure, Goal, Sample, What};
use super::ground::{Ground, SLOT};
use super::load::{self, SCHEMA, Shape, TABLE};
use super::machine::peak_memory_mib;
use super::receiver::COUNTED;
use super::throughput::{wait_until_delivered, wait_until_queued};
use super::{Plan, say};
use crate::postgres::cluster::free_port;

/// Long enough for every clock inside walhook to have ticked.
const IDLE: Duration = Duration::from_secs(6);
const LONGEST: Duration = Duration::from_secs(300);

/// Measures all three; `None` where the system does not tell.
///
/// # Errors
/// Where walhook ends, or does not get through in time.
pub(super) async fn measure(ground: &Ground, plan: &Plan) -> anyhow::Result<Option<Vec<Figure>>> {
    if peak_memory_mib(std::process::id()).is_none() {
        return Ok(None);
    }
    say("memory, idle");
    let idle = idle(ground).await?;
    say(&format!("memory, one transaction of {} rows", plan.huge_rows));
    let huge = huge(ground, plan.huge_rows).await?;
    say(&format!("memory, {} events behind a dead endpoint", plan.backlog));
    let dead = dead(ground, plan.backlog).await?;
    let figure = |case: String, value, most| {
        Figure::of(What::Memory, case, vec![Sample::new(None, value)], Goal::AtMost(most), None)
    };
    let took = huge.took.as_secs_f64();
    let note = format!(
        "{took:.1} s from the commit until all were delivered, {:.0} rows/s; at the commit it had {:.1} MiB",
        plan.huge_rows as f64 / took,
        huge.at_commit_mib
    );
    let idle = figure("idle, one trigger".into(), idle, 32.0);
    let huge = figure(format!("a transaction of {} rows of 200 B", plan.huge_rows), huge.peak_mib, 64.0);
    let dead = figure(format!("{} events of 200 B behind a dead endpoint", plan.backlog), dead, 64.0);
    Ok(Some(idle.into_iter().chain(huge.map(|figure| figure.noting(note))).chain(dead).collect()))
}

async fn idle(ground: &Ground) -> anyhow::Result<f64> {
    let database = ground.database().await?;
    load::make_table(&database.session).await?;
    let walhook = database.watch(SCHEMA, TABLE, "insert", COUNTED).await?;
    database.stop(walhook).await?;
    let mut walhook = database.launch("capture,delivery,api")?;
    ground.wait_until_active(SLOT, || walhook.check()).await?;
    tokio::time::sleep(IDLE).await;
    let peak = peak_memory_mib(walhook.process_id()).unwrap_or_default();
    database.stop(walhook).await?;
    database.remove().await?;
    Ok(peak)
}

/// Rows come in as usual, and once more all of them are there when it starts.
async fn dead(ground: &Ground, rows: u64) -> anyhow::Result<f64> {
    let database = ground.database().await?;
    load::make_table(&database.session).await?;
    let nobody = format!("http://127.0.0.1:{}/", free_port()?);
    let mut walhook = database.watch_for(SCHEMA, TABLE, "insert", &nobody).await?;
    let shape = Shape { row_bytes: 200, transaction_rows: 1000 };
    shape.load(&database.session, rows).await?;
    wait_until_queued(&database, &mut walhook, rows).await?;
    tokio::time::sleep(IDLE).await;
    let while_they_came = peak_memory_mib(walhook.process_id()).unwrap_or_default();
    database.stop(walhook).await?;
    let mut walhook = database.launch("capture,delivery,api")?;
    ground.wait_until_active(SLOT, || walhook.check()).await?;
    tokio::time::sleep(IDLE).await;
    let peak = peak_memory_mib(walhook.process_id()).unwrap_or_default();
    database.stop(walhook).await?;
    database.remove().await?;
    Ok(peak.max(while_they_came))
}

struct Huge {
    peak_mib: f64,
    at_commit_mib: f64,
    took: Duration,
}

async fn huge(ground: &Ground, rows: u64) -> anyhow::Result<Huge> {
    let database = ground.database().await?;
    load::make_table(&database.session).await?;
    let mut walhook = database.watch(SCHEMA, TABLE, "insert", COUNTED).await?;
    ground.reset_receiver().await?;
    let shape = Shape { row_bytes: 200, transaction_rows: rows };
    shape.load(&database.session, rows).await?;
    let (committed, process) = (Instant::now(), walhook.process_id());
    let at_commit_mib = peak_memory_mib(process).unwrap_or_default();
    wait_until_delivered(ground, &database, &mut walhook, rows, LONGEST).await?;
    let took = committed.elapsed();
    let peak_mib = peak_memory_mib(process).unwrap_or_default();
    database.stop(walhook).await?;
    database.remove().await?;
    Ok(Huge { peak_mib, at_commit_mib, took })
}
