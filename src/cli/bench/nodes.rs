//! Several `walhook serve` on one machine against one: sharing the work must not cost more than it brings.

use std::time::{Duration, Instant};

use super::figure::{Cost, Figure, Goal, Sample, What};
use super::ground::{Database, Ground};
use super::load::Shape;
use super::machine::between_cores;
use super::meter::Meter;
use super::receiver::{COUNTED, WORKING};
use super::throughput::{longest, prepare, rate, wait_until_delivered};
use super::wait::wait_until;
use super::{Plan, say};
use crate::cli::stage::Walhook;

const SHAPE: Shape = Shape { row_bytes: 200, transaction_rows: 1000 };
const NODES: usize = 3;
const LEVEL_WITHIN: Duration = Duration::from_secs(60);

/// Receivers that answer at once, so that one node takes all of the machine, and after some time, as most do. With how
/// many times the rows: what is over in two seconds is mostly the start, until all nodes have opened their connections.
const RECEIVERS: [(&str, &str, u64); 2] = [(COUNTED, "answered at once", 4), (WORKING, "answered after 5 ms", 1)];

/// Measures one and several in each round, which of them first by turns.
///
/// # Errors
/// Where a node ends, or they do not get through in time.
pub(super) async fn measure(ground: &Ground, plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for receiver in RECEIVERS {
        figures.extend(measure_with(ground, plan, receiver).await?);
    }
    Ok(figures)
}

async fn measure_with(
    ground: &Ground,
    plan: &Plan,
    (path, name, times): (&str, &str, u64),
) -> anyhow::Result<Option<Figure>> {
    let (mut samples, mut costs_of_one, mut lanes) = (Vec::new(), Vec::new(), String::new());
    let mut apart = Vec::new();
    for round in 1..=plan.rounds {
        say(&format!("nodes, {name}, round {round} of {}", plan.rounds));
        let order = if round % 2 == 1 { [1, NODES] } else { [NODES, 1] };
        apart.extend(between_cores());
        let (mut one, mut several) = (None, None);
        for count in order {
            let run = with_nodes(ground, path, plan.rows * times, count).await?;
            *(if count == 1 { &mut one } else { &mut several }) = Some(run);
        }
        if let (Some(one), Some(several)) = (one, several) {
            samples.push(Sample { floor: Some(one.rate), walhook: several.rate, cost_a_row: Some(several.cost) });
            costs_of_one.push(one.cost);
            lanes = several.lanes;
        }
    }
    let case = format!("{NODES} nodes, {name}");
    let figure = Figure::of(What::Nodes, case, samples, Goal::AtLeast(1.0), None);
    let of_one = Cost::middle(&costs_of_one).map(|cost| format!("with one node: {cost}; ")).unwrap_or_default();
    let apart: Vec<String> = apart.iter().map(|trip| trip.as_nanos().to_string()).collect();
    let apart =
        if apart.is_empty() { String::new() } else { format!("; ns to the other core and back: {}", apart.join(", ")) };
    Ok(figure.map(|figure| figure.noting(format!("{of_one}lanes of each node in the last round: {lanes}{apart}"))))
}

/// What walhooks did together.
struct Run {
    /// From the first commit until all rows are delivered.
    rate: f64,
    /// The application's own writes are in it.
    cost: Cost,
    /// How they were shared out.
    lanes: String,
}

async fn with_nodes(ground: &Ground, path: &str, rows: u64, count: usize) -> anyhow::Result<Run> {
    let database = prepare(ground, path).await?;
    let launch = |_| database.launch("capture,delivery,api");
    let mut nodes: Vec<Walhook> = (0..count).map(launch).collect::<anyhow::Result<_>>()?;
    let lanes = wait_until_level(&database, &mut nodes).await?;
    ground.reset_receiver().await?;
    let mut meter = Meter::start(ground, &database, &nodes).await?;
    let started = Instant::now();
    SHAPE.write(&database.session, rows).await?;
    wait_until_delivered(ground, &database, &mut nodes[0], rows, longest(rows)).await?;
    let took = started.elapsed();
    meter.stop();
    for mut node in nodes {
        node.check()?;
        node.end().await?;
    }
    let cost = meter.read(rows).await?;
    database.remove().await?;
    Ok(Run { rate: rate(rows, took), cost, lanes })
}

/// Waits until the source is captured and no lane has changed hands for a while; gives each node's lanes.
async fn wait_until_level(database: &Database<'_>, nodes: &mut [Walhook]) -> anyhow::Result<String> {
    let is_level = "select (select count(*) from walhook.node where delivers) = $1 \
                           and bool_and(node is not null and since < now() - interval '3 seconds') \
                           and exists (select from pg_replication_slots \
                                       where database = current_database() and active) \
                    from walhook.lanes";
    let count = i64::try_from(nodes.len())?;
    wait_until("the nodes have shared out the lanes", LEVEL_WITHIN, async || {
        nodes.iter_mut().try_for_each(Walhook::check)?;
        // The view looks through all locks of the server.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let row = database.session.query_one(is_level, &[&count]).await?;
        Ok(row.get::<_, Option<bool>>(0).unwrap_or(false))
    })
    .await?;
    let lanes = "select string_agg(lanes::text, ', ' order by lanes desc) from ( \
                     select count(l.lane) as lanes from walhook.node n left join walhook.lanes l on l.node = n.id \
                     group by n.id) shares";
    Ok(database.session.query_one(lanes, &[]).await?.get::<_, Option<String>>(0).unwrap_or_default())
}
