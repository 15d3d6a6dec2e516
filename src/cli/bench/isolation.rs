//! What one endpoint that misbehaves costs the triggers of a hundred healthy ones: throughput and latency with it and
//! without, in short slices by turns: a machine's own drift within half a minute is more than what is looked for.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::figure::{Figure, Goal, Sample, What};
use super::ground::{Database, Ground};
use super::load::{self, SCHEMA, TABLE};
use super::receiver::{HANG, HUGE, SLOW, TIMED};
use super::statistics::percentile;
use super::wait::wait_for_count;
use super::{Plan, say};
use crate::cli::stage::Walhook;
use crate::postgres::cluster::free_port;

const INSERT: &str = "insert into bench.item (payload) select repeat('x', 192)";
/// Each row is an event for each healthy trigger, and for the bad one while there is one.
const ROWS_A_SECOND: u32 = 100;
const WARM_UP_ROWS: u64 = 20;
const WITHIN: Duration = Duration::from_secs(120);
/// In which a bad endpoint shows how bad it is before it is measured what it costs.
const SETTLES: Duration = Duration::from_secs(1);

/// What the bad endpoint does.
#[derive(Clone, Copy)]
enum Bad {
    Dead,
    Hung,
    Slow,
    Huge,
}

const KINDS: [Bad; 4] = [Bad::Dead, Bad::Hung, Bad::Slow, Bad::Huge];

impl Bad {
    fn name(self) -> &'static str {
        match self {
            Bad::Dead => "one refuses connections",
            Bad::Hung => "one never answers",
            Bad::Slow => "one takes 30 s",
            Bad::Huge => "one answers 10 MiB",
        }
    }

    fn url(self, ground: &Ground) -> anyhow::Result<String> {
        Ok(match self {
            Bad::Dead => format!("http://127.0.0.1:{}/", free_port()?),
            Bad::Hung => ground.receiver_url(HANG),
            Bad::Slow => ground.receiver_url(SLOW),
            Bad::Huge => ground.receiver_url(HUGE),
        })
    }
}

/// What the healthy triggers together got in one slice.
struct Slice {
    events_a_second: f64,
    /// From the commit to the receiver.
    p99_millis: f64,
}

/// Measures all kinds in each round.
///
/// # Errors
/// Where walhook ends, or does not get through in time.
pub(super) async fn measure(ground: &Ground, plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    // A disk that stalls for 100 ms now and then would be all that the 99th percentile shows.
    ground.flush_commits(false).await?;
    let figures = measure_unflushed(ground, plan).await;
    ground.flush_commits(true).await?;
    figures
}

async fn measure_unflushed(ground: &Ground, plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let mut samples: [(Vec<Sample>, Vec<Sample>); 4] = Default::default();
    for round in 1..=plan.rounds {
        let healthy = Healthy::prepare(ground, plan).await?;
        for (kind, (rates, latencies)) in KINDS.into_iter().zip(&mut samples) {
            say(&format!("isolation, round {round} of {}: {}", plan.rounds, kind.name()));
            for number in 0..plan.isolation_slices {
                let (without, with) = healthy.pair(kind, number, plan).await?;
                rates.push(Sample::new(Some(without.events_a_second), with.events_a_second));
                latencies.push(Sample::new(Some(without.p99_millis), with.p99_millis));
            }
        }
        healthy.remove().await?;
    }
    let mut figures = Vec::new();
    for (kind, (rates, latencies)) in KINDS.into_iter().zip(samples) {
        let case = |what: &str| format!("{}: {what}", kind.name());
        figures.extend(Figure::of(What::Isolation, case("events/s"), rates, Goal::AtLeast(0.95), None));
        figures.extend(Figure::of(What::Isolation, case("p99, ms"), latencies, Goal::AtMost(1.05), None));
    }
    Ok(figures)
}

/// A walhook with nothing but triggers of healthy endpoints.
struct Healthy<'a> {
    ground: &'a Ground,
    database: Database<'a>,
    walhook: Walhook,
    triggers: u64,
}

impl<'a> Healthy<'a> {
    async fn prepare(ground: &'a Ground, plan: &Plan) -> anyhow::Result<Healthy<'a>> {
        let database = ground.database().await?;
        load::make_table(&database.session).await?;
        // Requests that hang are not waited for at the end.
        let walhook = Walhook::start(&database.url(), &["--grace", "1s"]).await?;
        for number in 0..plan.healthy_triggers {
            walhook.call(&create(&format!("healthy_{number}"), &ground.receiver_url(TIMED))).await?;
        }
        Ok(Healthy { ground, database, walhook, triggers: plan.healthy_triggers })
    }

    async fn remove(self) -> anyhow::Result<()> {
        self.database.stop(self.walhook).await?;
        self.database.remove().await
    }

    /// Without the bad one and with it; neither is always the first one.
    async fn pair(&self, bad: Bad, number: usize, plan: &Plan) -> anyhow::Result<(Slice, Slice)> {
        if number.is_multiple_of(2) {
            Ok((self.slice(plan).await?, self.slice_beside(bad, plan).await?))
        } else {
            let with = self.slice_beside(bad, plan).await?;
            Ok((self.slice(plan).await?, with))
        }
    }

    async fn slice_beside(&self, bad: Bad, plan: &Plan) -> anyhow::Result<Slice> {
        self.walhook.call(&create("bad", &bad.url(self.ground)?)).await?;
        self.write(WARM_UP_ROWS).await?;
        tokio::time::sleep(SETTLES).await;
        let slice = self.slice(plan).await?;
        self.walhook.call(&json!({"type": "delete_event_trigger", "args": {"name": "bad"}})).await?;
        Ok(slice)
    }

    async fn slice(&self, plan: &Plan) -> anyhow::Result<Slice> {
        self.write(WARM_UP_ROWS).await?;
        let rows = (plan.rows / self.triggers / 4).max(WARM_UP_ROWS);
        let took = self.write(rows).await?;
        let events_a_second = (rows * self.triggers) as f64 / took.as_secs_f64();
        let rows = (f64::from(ROWS_A_SECOND) * plan.latency_time.as_secs_f64()).ceil() as u64;
        self.ground.reset_receiver().await?;
        let mut clock = interval(Duration::from_secs(1) / ROWS_A_SECOND);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for _ in 0..rows {
            clock.tick().await;
            self.database.session.batch_execute(&format!("{INSERT} from generate_series(1, 1)")).await?;
        }
        self.wait_for(rows).await?;
        let p99 = percentile(&self.ground.times().await?, 0.99);
        Ok(Slice { events_a_second, p99_millis: p99.unwrap_or_default() })
    }

    /// Writes rows as fast as they go; gives how long it took until all healthy endpoints had all of them.
    async fn write(&self, rows: u64) -> anyhow::Result<Duration> {
        self.ground.reset_receiver().await?;
        let started = Instant::now();
        let each = format!("do $$ begin for n in 1..{rows} loop {INSERT}; commit; end loop; end $$");
        self.database.session.batch_execute(&each).await?;
        Ok(self.wait_for(rows).await? - started)
    }

    async fn wait_for(&self, rows: u64) -> anyhow::Result<Instant> {
        let events = rows * self.triggers;
        wait_for_count("requests at healthy endpoints", events, WITHIN, async || self.ground.received().await).await
    }
}

fn create(name: &str, webhook: &str) -> Value {
    let args = json!({
        "name": name,
        "table": {"schema": SCHEMA, "name": TABLE},
        "webhook": webhook,
        "insert": {"columns": "*"},
        "retry_conf": {"num_retries": 3},
    });
    json!({"type": "create_event_trigger", "args": args})
}
