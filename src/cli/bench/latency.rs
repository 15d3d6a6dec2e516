//! How long from a commit to its webhook, at a given rate of commits.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hyper::HeaderMap;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::figure::{Figure, Goal, Sample, What};
use super::ground::{Database, Ground, SLOT};
use super::load::{self, SCHEMA, Shape, TABLE};
use super::receiver::TIMED;
use super::statistics::percentile;
use super::wait::wait_for_count;
use super::{Plan, say};
use crate::delivery::{Client, Endpoint};
use crate::model::Timestamp;
use crate::node::ServerClock;
use crate::postgres::Session;

const SHAPE: Shape = Shape { row_bytes: 200, transaction_rows: 1 };
const ARRIVED_WITHIN: Duration = Duration::from_secs(30);
/// Beside the time the writers need when they keep up.
const WRITERS_SPARE: Duration = Duration::from_secs(30);

/// Commits a second, and by how many sessions: one alone may not manage more on a disk that takes a millisecond.
#[derive(Clone, Copy)]
struct Pace {
    rate: u32,
    sessions: u32,
}

const PACES: [Pace; 2] = [Pace { rate: 100, sessions: 1 }, Pace { rate: 1000, sessions: 4 }];
/// Percentile, its name, how many times the floor it may be.
const SHOWN: [(f64, &str, f64); 2] = [(0.5, "p50", 3.0), (0.99, "p99", 6.0)];

/// Measures all rates in each round.
///
/// # Errors
/// Where walhook ends, or a webhook does not arrive in time.
pub(super) async fn measure(ground: &Ground, plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let mut samples = vec![Vec::new(); PACES.len() * SHOWN.len()];
    let mut reached = [f64::INFINITY; PACES.len()];
    for round in 1..=plan.rounds {
        for (index, pace) in PACES.into_iter().enumerate() {
            say(&format!("latency, round {round} of {}: {} rows/s", plan.rounds, pace.rate));
            let (floor, walhook) = (floor(ground, pace, plan).await?, contender(ground, pace, plan).await?);
            reached[index] = reached[index].min(walhook.rate).min(floor.rate);
            for (offset, (share, _, _)) in SHOWN.into_iter().enumerate() {
                let value = percentile(&walhook.times, share).context("no webhook was timed")?;
                samples[index * SHOWN.len() + offset].push(Sample::new(percentile(&floor.times, share), value));
            }
        }
    }
    let mut figures = Vec::new();
    for (position, rounds) in samples.into_iter().enumerate() {
        let (index, (_, name, most)) = (position / SHOWN.len(), SHOWN[position % SHOWN.len()]);
        let case = format!("{} rows/s, {name}", PACES[index].rate);
        let figure = Figure::of(What::Latency, case, rounds, Goal::AtMost(most), None);
        let note = (reached[index] < 0.95 * f64::from(PACES[index].rate))
            .then(|| format!("the writers only reached {:.0} rows/s in one of the runs", reached[index]));
        figures.extend(figure.map(|figure| match note {
            Some(note) => figure.noting(note),
            None => figure,
        }));
    }
    Ok(figures)
}

/// What one run gave: times in milliseconds, and the rate at which rows were committed.
struct Run {
    times: Vec<f64>,
    rate: f64,
}

async fn floor(ground: &Ground, pace: Pace, plan: &Plan) -> anyhow::Result<Run> {
    let database = ground.database().await?;
    load::make_table(&database.session).await?;
    let run = write(ground, &database, pace, plan, true).await?;
    database.remove().await?;
    Ok(run)
}

async fn contender(ground: &Ground, pace: Pace, plan: &Plan) -> anyhow::Result<Run> {
    let database = ground.database().await?;
    load::make_table(&database.session).await?;
    let mut walhook = database.watch(SCHEMA, TABLE, "insert", TIMED).await?;
    ground.wait_until_active(SLOT, || walhook.check()).await?;
    let run = write(ground, &database, pace, plan, false).await?;
    database.stop(walhook).await?;
    database.remove().await?;
    Ok(run)
}

/// Writes at the pace and waits for as many requests. `posts`: the writers themselves make them.
async fn write(ground: &Ground, database: &Database<'_>, pace: Pace, plan: &Plan, posts: bool) -> anyhow::Result<Run> {
    let rows = (f64::from(pace.rate) * plan.latency_time.as_secs_f64()) as u32;
    let each = rows / pace.sessions;
    let poster = posts.then(|| Poster::new(ground)).transpose()?;
    let mut writers = JoinSet::new();
    let start = Instant::now() + Duration::from_millis(100);
    // The first requests open connections, so both sides begin with rows that are not counted.
    warm_up(ground, database, poster.as_ref()).await?;
    ground.reset_receiver().await?;
    for number in 0..pace.sessions {
        let writer = Writer { session: database.connect().await?, poster: poster.clone() };
        let start = Instant::now().max(start + Duration::from_secs(1) / pace.rate * number);
        writers.spawn(writer.write(each, start, Duration::from_secs(1) * pace.sessions / pace.rate));
    }
    let begun = Instant::now();
    let all = async {
        while let Some(ended) = writers.join_next().await {
            ended??;
        }
        anyhow::Ok(begun.elapsed())
    };
    let took = tokio::time::timeout(plan.latency_time + WRITERS_SPARE, all).await.context("the writers hang")??;
    let written = u64::from(each * pace.sessions);
    wait_for_count("webhooks of single rows", written, ARRIVED_WITHIN, async || ground.received().await).await?;
    Ok(Run { times: ground.times().await?, rate: written as f64 / took.as_secs_f64() })
}

const WARM_UP_ROWS: u32 = 20;

async fn warm_up(ground: &Ground, database: &Database<'_>, poster: Option<&Poster>) -> anyhow::Result<()> {
    ground.reset_receiver().await?;
    let writer = Writer { session: database.connect().await?, poster: poster.cloned() };
    writer.write(WARM_UP_ROWS, Instant::now(), Duration::from_millis(5)).await?;
    let target = u64::from(WARM_UP_ROWS);
    wait_for_count("the first webhooks", target, ARRIVED_WITHIN, async || ground.received().await).await.map(drop)
}

/// The floor's half of a webhook.
#[derive(Clone)]
struct Poster {
    client: Client,
    endpoint: Arc<Endpoint>,
}

impl Poster {
    fn new(ground: &Ground) -> anyhow::Result<Poster> {
        Ok(Poster {
            client: Client::new(ServerClock::default())?,
            endpoint: Arc::new(load::endpoint(ground.receiver_url(TIMED))?),
        })
    }
}

struct Writer {
    session: Session,
    poster: Option<Poster>,
}

impl Writer {
    /// Commits rows, one each period; a late one follows at once.
    async fn write(self, rows: u32, start: Instant, period: Duration) -> anyhow::Result<()> {
        let body = SHAPE.event(1, Timestamp::now()).new.unwrap_or_default();
        let payload = String::from_utf8_lossy(&body);
        let insert = format!("begin; insert into bench.item (payload) values ('{payload}')");
        let mut clock = interval_at(start, period);
        clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for number in 0..rows {
            clock.tick().await;
            self.session.batch_execute(&insert).await?;
            let committed_at = Timestamp::now();
            self.session.batch_execute("commit").await?;
            if let Some(Poster { client, endpoint }) = &self.poster {
                let outcome = client
                    .post(endpoint, SHAPE.body(endpoint, u64::from(number), committed_at), HeaderMap::new())
                    .await;
                anyhow::ensure!(outcome.is_success(), "the receiver did not accept: {outcome:?}");
            }
        }
        Ok(())
    }
}
