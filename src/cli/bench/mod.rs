//! `walhook bench`: each figure of walhook beside its floor, in turn on the same machine, server and receiver.

mod drain;
mod figure;
mod ground;
mod isolation;
mod latency;
mod load;
mod machine;
mod memory;
mod meter;
mod nodes;
mod receiver;
mod report;
mod statistics;
mod throughput;
mod wait;
mod writes;

use std::time::{Duration, Instant};

use crate::cli::stage::StopSignal;
use ground::Ground;
use machine::Machine;
use report::Report;

pub use receiver::{ReceiverArgs, receive};

const QUICK_ROWS: u64 = 5_000;
const ROWS: u64 = 100_000;
const ROUNDS: usize = 3;

/// Measure walhook against its floors on a private throwaway Postgres; needs no database, leaves nothing behind.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// How often each pair of floor and walhook is measured [default: 3, with --quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Rows in each measurement of throughput, in thousands full [default: 100000, with --quick 5000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1000..))]
    rows: Option<u64>,
    /// Events behind, for `drain` and `memory`, in thousands full [default: 1000000, with --quick 100000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1000..))]
    backlog: Option<u64>,
    /// Only these, joined by commas [default: all but isolation, drain and nodes]
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_enum)]
    only: Vec<Kind>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    /// Less of everything: shows in a minute that all of it works, not how fast
    #[arg(long)]
    quick: bool,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// WAL to queue, and end to end
    Throughput,
    /// Commit to webhook
    Latency,
    /// Slowdown of the application's writes
    Writes,
    /// What a bad endpoint costs a hundred healthy ones. Some four minutes a round
    Isolation,
    /// Resident memory
    Memory,
    /// Many events behind: how fast they are worked off, and what a read of the log costs. Some two minutes a round
    Drain,
    /// Three nodes on this machine against one
    Nodes,
}

impl Kind {
    fn is_usual(self) -> bool {
        !matches!(self, Kind::Isolation | Kind::Drain | Kind::Nodes)
    }
}

/// How much of everything is measured.
struct Plan {
    rounds: usize,
    rows: u64,
    latency_time: Duration,
    writes_time: Duration,
    huge_rows: u64,
    backlog: u64,
    healthy_triggers: u64,
    /// On each side.
    isolation_slices: usize,
}

impl Plan {
    fn new(args: &BenchArgs) -> Plan {
        let (rounds, rows, seconds, huge_rows, healthy_triggers, isolation_slices) = match args.quick {
            true => (1, QUICK_ROWS, [1, 2], 100_000, 10, 1),
            false => (ROUNDS, ROWS, [4, 8], 1_000_000, 100, 6),
        };
        let (rows, backlog) = (args.rows.unwrap_or(rows), args.backlog.unwrap_or(huge_rows));
        Plan {
            rounds: args.rounds.map_or(rounds, usize::from),
            // Whole transactions of every shape.
            rows: rows - rows % 1000,
            latency_time: Duration::from_secs(seconds[0]),
            writes_time: Duration::from_secs(seconds[1]),
            huge_rows,
            backlog: backlog - backlog % 1000,
            healthy_triggers,
            isolation_slices,
        }
    }
}

/// Measures and prints. Progress goes to standard error, the report to standard output.
///
/// # Errors
/// Where Postgres, walhook or the receiver fails, something does not get through in time, or a signal ends it early.
pub async fn run(args: BenchArgs) -> anyhow::Result<()> {
    let mut stop = StopSignal::listen()?;
    let report = tokio::select! {
        report = Box::pin(measure(&args)) => report?,
        () = stop.received() => anyhow::bail!("stopped by a signal before the end; nothing is left behind"),
    };
    println!("{}", if args.json { report.json()? } else { report.text() });
    Ok(())
}

async fn measure(args: &BenchArgs) -> anyhow::Result<Report> {
    let (plan, started) = (Plan::new(args), Instant::now());
    let is_wanted = |kind: Kind| if args.only.is_empty() { kind.is_usual() } else { args.only.contains(&kind) };
    say("starting a private Postgres and the receiver");
    let ground = Box::pin(Ground::prepare()).await?;
    let (mut figures, mut skipped) = (Vec::new(), Vec::new());
    if is_wanted(Kind::Throughput) {
        figures.extend(Box::pin(throughput::measure(&ground, &plan)).await?);
    }
    if is_wanted(Kind::Latency) {
        figures.extend(Box::pin(latency::measure(&ground, &plan)).await?);
    }
    if is_wanted(Kind::Writes) {
        match Box::pin(writes::measure(&ground, &plan)).await? {
            Some(figure) => figures.push(figure),
            None => skipped.push("the application's writes: this machine has no pgbench".to_owned()),
        }
    }
    if is_wanted(Kind::Isolation) {
        figures.extend(Box::pin(isolation::measure(&ground, &plan)).await?);
    }
    if is_wanted(Kind::Memory) {
        match Box::pin(memory::measure(&ground, &plan)).await? {
            Some(found) => figures.extend(found),
            None => skipped.push("memory: this system does not tell a process' peak".to_owned()),
        }
    }
    if is_wanted(Kind::Drain) {
        figures.extend(Box::pin(drain::measure(&ground, &plan)).await?);
    }
    if is_wanted(Kind::Nodes) {
        figures.extend(Box::pin(nodes::measure(&ground, &plan)).await?);
    }
    let machine = Machine::look(ground.cluster().version());
    let Plan { rounds, rows, .. } = plan;
    Ok(Report { machine, rounds, rows, took_seconds: started.elapsed().as_secs(), figures, skipped })
}

/// Says what is being done, beside the report.
fn say(what: &str) {
    eprintln!("bench: {what}");
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn args(line: &str) -> BenchArgs {
        Line::try_parse_from(line.split_whitespace()).expect("arguments").args
    }

    #[test]
    fn a_plan_is_full_unless_it_is_to_be_quick() {
        let plan = Plan::new(&args("bench"));
        assert_eq!((plan.rounds, plan.rows, plan.huge_rows), (3, 100_000, 1_000_000));
        let plan = Plan::new(&args("bench --quick --rows 2500 --rounds 2"));
        assert_eq!((plan.rounds, plan.rows, plan.huge_rows), (2, 2_000, 100_000));
        assert_eq!(plan.backlog, 100_000);
        assert_eq!(Plan::new(&args("bench --backlog 20500")).backlog, 20_000);
    }

    #[test]
    fn kinds_are_joined_by_commas() {
        assert_eq!(args("bench --only latency,memory").only, [Kind::Latency, Kind::Memory]);
        assert!(Line::try_parse_from(["bench", "--only", "tea"]).is_err());
    }
}
