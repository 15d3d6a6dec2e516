//! How many rows a second: WAL to queue against `pg_recvlogical`, end to end against bare POSTs.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use hyper::HeaderMap;
use tokio::process::Child;
use tokio::task::JoinSet;

use super::figure::{Cost, Figure, Goal, Sample, What};
use super::ground::{Database, Ground, SLOT, program};
use super::load::{self, SCHEMA, SHAPES, Shape, TABLE};
use super::meter::Meter;
use super::receiver::COUNTED;
use super::wait::{wait_for_count, wait_until};
use super::{Plan, say};
use crate::cli::stage::Walhook;
use crate::delivery::Client;
use crate::model::Timestamp;
use crate::node::ServerClock;

/// The floor's slot: a copy of walhook's.
const COPY: &str = "bench_floor";
const IN_FLIGHT: u64 = 64;
/// Different bodies of the floor; they are sent again and again.
const BODIES: u64 = 1000;
/// No contender that needs longer than this is worth a figure.
const SLOWEST_ROWS_A_SECOND: u64 = 200;
const RECORDED_WITHIN: Duration = Duration::from_secs(30);

/// Measures all shapes in each round.
///
/// # Errors
/// Where a contender ends, or does not get through in time.
pub(super) async fn measure(ground: &Ground, plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let mut to_queue: Vec<Vec<Sample>> = vec![Vec::new(); SHAPES.len()];
    let mut end_to_end = to_queue.clone();
    for round in 1..=plan.rounds {
        for (index, shape) in SHAPES.into_iter().enumerate() {
            say(&format!("throughput, round {round} of {}: {}", plan.rounds, shape.name()));
            to_queue[index].push(wal_to_queue(ground, shape, plan.rows).await?);
            end_to_end[index].push(whole_way(ground, shape, plan.rows).await?);
        }
    }
    let figures = |what, samples: Vec<Vec<Sample>>, goal: fn(Shape) -> f64, needed: f64| {
        let with_shapes = samples.into_iter().zip(SHAPES);
        with_shapes.filter_map(move |(rounds, shape)| {
            let goal = Goal::AtLeast(goal(shape));
            Figure::of(what, shape.name(), rounds, goal, Some(Goal::AtLeast(needed)))
        })
    };
    let end_to_end_goal = |shape: Shape| if shape.transaction_rows == 1 { 0.5 } else { 0.6 };
    let mut all: Vec<Figure> = figures(What::WalToQueue, to_queue, |_| 0.9, 0.6).collect();
    all.extend(figures(What::EndToEnd, end_to_end, end_to_end_goal, 0.4));
    Ok(all)
}

/// A database with a watched table, whose events go to a path of the receiver; walhook stopped.
///
/// # Errors
/// What Postgres or walhook said.
pub(super) async fn prepare<'a>(ground: &'a Ground, path: &str) -> anyhow::Result<Database<'a>> {
    let database = ground.database().await?;
    load::make_table(&database.session).await?;
    let walhook = database.watch(SCHEMA, TABLE, "insert", path).await?;
    database.stop(walhook).await?;
    Ok(database)
}

async fn wal_to_queue(ground: &Ground, shape: Shape, rows: u64) -> anyhow::Result<Sample> {
    let database = prepare(ground, COUNTED).await?;
    let copy = "select pg_copy_logical_replication_slot($1, $2)";
    database.session.query(copy, &[&SLOT, &COPY]).await.context("the slot could not be copied")?;
    let end = shape.load(&database.session, rows).await?;
    let floor = drain(ground, &database, &end, rows).await?;
    let mut walhook = database.launch("capture")?;
    let mut meter = Meter::start(ground, &database, std::slice::from_ref(&walhook)).await?;
    let started = ground.wait_until_active(SLOT, || walhook.check()).await?;
    let ended = wait_until_queued(&database, &mut walhook, rows).await?;
    meter.stop();
    database.stop(walhook).await?;
    let cost_a_row = Some(meter.read(rows).await?);
    let sample = Sample { floor: Some(rate(rows, floor)), walhook: rate(rows, ended - started), cost_a_row };
    database.remove().await?;
    Ok(sample)
}

/// The floor: how long `pg_recvlogical` takes.
async fn drain(ground: &Ground, database: &Database<'_>, end: &str, rows: u64) -> anyhow::Result<Duration> {
    let mut command = program(ground, "pg_recvlogical", &database.name);
    command.args(["--dbname", &database.name, "--slot", COPY, "--start", "--no-loop", "--file", "/dev/null"]);
    command.args(["--endpos", end, "--option", "proto_version=1", "--option"]);
    command.arg(format!("publication_names={SLOT}")).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("pg_recvlogical could not be started")?;
    let started = ground.wait_until_active(COPY, || {
        let ended = child.try_wait()?;
        anyhow::ensure!(ended.is_none(), "pg_recvlogical ended before its start was seen ({ended:?})");
        Ok(())
    });
    let started = match started.await {
        Ok(started) => started,
        Err(error) => return Err(error.context(errors_of(child).await)),
    };
    let status = tokio::time::timeout(longest(rows), child.wait()).await.context("pg_recvlogical does not end")??;
    let took = started.elapsed();
    if !status.success() {
        anyhow::bail!("pg_recvlogical failed ({status}): {}", errors_of(child).await);
    }
    Ok(took)
}

async fn errors_of(mut child: Child) -> String {
    drop(child.start_kill());
    let output = child.wait_with_output().await;
    output.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap_or_default()
}

/// Waits until walhook's queue has all rows of its one trigger.
///
/// # Errors
/// When walhook ends, or it takes too long.
pub(super) async fn wait_until_queued(
    database: &Database<'_>,
    walhook: &mut Walhook,
    rows: u64,
) -> anyhow::Result<Instant> {
    // One probe of an index; the log counts from 1.
    let last = "select seq from walhook.event \
                where trigger_id = (select id from walhook.trigger) and source_id = (select id from walhook.source) \
                order by seq desc limit 1";
    let last = database.session.prepare(last).await?;
    wait_for_count("rows in walhook's queue", rows, longest(rows), async || {
        walhook.check()?;
        let row = database.session.query_opt(&last, &[]).await?;
        Ok(row.map_or(0, |row| row.get::<_, i64>(0)).unsigned_abs())
    })
    .await
}

async fn whole_way(ground: &Ground, shape: Shape, rows: u64) -> anyhow::Result<Sample> {
    let database = prepare(ground, COUNTED).await?;
    shape.load(&database.session, rows).await?;
    let floor = post_all(ground, shape, rows).await?;
    let (took, cost) = work_off(ground, &database, rows).await?;
    database.remove().await?;
    Ok(Sample { floor: Some(rate(rows, floor)), walhook: rate(rows, took), cost_a_row: Some(cost) })
}

/// How long a walhook that is started needs until all rows are delivered that wait in the WAL or in its queue.
///
/// # Errors
/// When walhook ends, or it takes too long.
pub(super) async fn work_off(ground: &Ground, database: &Database<'_>, rows: u64) -> anyhow::Result<(Duration, Cost)> {
    ground.reset_receiver().await?;
    let mut walhook = database.launch("capture,delivery,api")?;
    let mut meter = Meter::start(ground, database, std::slice::from_ref(&walhook)).await?;
    let started = ground.wait_until_active(SLOT, || walhook.check()).await?;
    wait_until_delivered(ground, database, &mut walhook, rows, longest(rows)).await?;
    let took = started.elapsed();
    meter.stop();
    database.stop(walhook).await?;
    Ok((took, meter.read(rows).await?))
}

/// Waits until the receiver got all rows, then until all are recorded as delivered.
///
/// # Errors
/// When walhook ends, or it takes too long.
pub(super) async fn wait_until_delivered(
    ground: &Ground,
    database: &Database<'_>,
    walhook: &mut Walhook,
    rows: u64,
    within: Duration,
) -> anyhow::Result<()> {
    let delivered = "select count(*) from walhook.attempt where verdict = 'delivered'";
    wait_for_count("requests at the receiver", rows, within, async || {
        walhook.check()?;
        ground.received().await
    })
    .await?;
    wait_until("every delivery is recorded", RECORDED_WITHIN, async || {
        let count: i64 = database.session.query_one(delivered, &[]).await?.get(0);
        Ok(count.unsigned_abs() >= rows)
    })
    .await
    .map(drop)
}

/// The floor: how long the requests alone take.
async fn post_all(ground: &Ground, shape: Shape, rows: u64) -> anyhow::Result<Duration> {
    let endpoint = Arc::new(load::endpoint(ground.receiver_url(COUNTED))?);
    let bodies: Vec<_> =
        (0..BODIES).map(|number| shape.body(&endpoint, 1_000_000 + number, Timestamp::now())).collect();
    let (client, bodies, next) = (Client::new(ServerClock::default())?, Arc::new(bodies), Arc::new(AtomicU64::new(0)));
    let (mut tasks, started) = (JoinSet::new(), Instant::now());
    for _ in 0..IN_FLIGHT {
        let (client, endpoint, bodies, next) = (client.clone(), endpoint.clone(), bodies.clone(), next.clone());
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= rows {
                    return Ok(());
                }
                let outcome =
                    client.post(&endpoint, bodies[(number % BODIES) as usize].clone(), HeaderMap::new()).await;
                anyhow::ensure!(outcome.is_success(), "the receiver did not accept: {outcome:?}");
            }
        });
    }
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        anyhow::Ok(started.elapsed())
    };
    tokio::time::timeout(longest(rows), all).await.context("the floor's requests do not end")?
}

/// In which so many rows must get through.
pub(super) fn longest(rows: u64) -> Duration {
    Duration::from_secs(20 + rows / SLOWEST_ROWS_A_SECOND)
}

/// Rows a second.
pub(super) fn rate(rows: u64, took: Duration) -> f64 {
    rows as f64 / took.as_secs_f64()
}
