//! One figure: what was measured in each round, and what it is held against.

use std::fmt;

use serde::Serialize;

use super::statistics::{median, ratio};

/// What is measured; the order is that of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum What {
    WalToQueue,
    EndToEnd,
    Latency,
    Writes,
    Isolation,
    Memory,
    Drain,
    Claim,
    Nodes,
}

impl What {
    pub const ALL: [What; 9] = [
        What::WalToQueue,
        What::EndToEnd,
        What::Latency,
        What::Writes,
        What::Isolation,
        What::Memory,
        What::Drain,
        What::Claim,
        What::Nodes,
    ];

    /// The heading of its figures.
    pub fn title(self) -> &'static str {
        match self {
            What::WalToQueue => "WAL to queue, rows/s",
            What::EndToEnd => "End to end, rows/s",
            What::Latency => "Commit to webhook, ms",
            What::Writes => "Application's writes, transactions/s",
            What::Isolation => "Healthy endpoints beside a bad one",
            What::Memory => "Peak resident memory, MiB",
            What::Drain => "A backlog worked off, rows/s",
            What::Claim => "A read of the log, pages",
            What::Nodes => "Several nodes on this machine, rows/s",
        }
    }

    /// What exactly the figures are.
    pub fn meaning(self) -> &'static str {
        match self {
            What::WalToQueue => {
                "from the slot's start until walhook's queue holds every row; the floor is pg_recvlogical draining \
                 the same WAL from a copy of the slot to /dev/null"
            }
            What::EndToEnd => {
                "from the slot's start until the receiver got every row and every delivery is recorded; the floor is \
                 walhook's HTTP client POSTing equal bodies to the same receiver, 64 at a time, and nothing else"
            }
            What::Latency => {
                "from the moment of the commit until the receiver has the request; the floor is one commit, then one \
                 POST, by the same sessions at the same rate"
            }
            What::Writes => {
                "pgbench simple-update with walhook capturing and delivering each update; the floor is the same with \
                 no slot and no walhook; 0.95 is a slowdown of 5 %"
            }
            What::Isolation => {
                "events a second at all healthy endpoints together, and from commit to webhook at 100 rows/s, each row \
                 an event for every endpoint; fsync off, as the disk's own hitches would hide all else; the floor is \
                 the same without the bad endpoint, in slices of some seconds by turns, of whose ratios these are the \
                 medians"
            }
            What::Memory => "the most that the walhook process had (VmHWM), a fresh process for each figure",
            What::Drain => {
                "from walhook's start on a queue with that many events behind until every delivery is recorded; the \
                 floor is the same number of rows end to end, from the WAL through an empty queue"
            }
            What::Claim => {
                "pages of the database that delivery's read of its next events touches, with more and more events \
                 behind; the floor is the same read near the log's end"
            }
            What::Nodes => {
                "from the first commit until every delivery is recorded, by walhooks that have shared out the lanes \
                 before; rows of 200 B, 1,000 a transaction; the floor is the same with one"
            }
        }
    }
}

/// What a figure must reach: its ratio, or itself where it has no floor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn is_met_by(self, value: f64) -> bool {
        match self {
            Goal::AtLeast(least) => value >= least,
            Goal::AtMost(most) => value <= most,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goal::AtLeast(least) => write!(out, "≥ {least}"),
            Goal::AtMost(most) => write!(out, "≤ {most}"),
        }
    }
}

/// How a figure stands to its goals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Reached,
    /// Below the goal, but as much as is asked for at present.
    EnoughForNow,
    Missed,
}

impl Verdict {
    pub fn text(self) -> &'static str {
        match self {
            Verdict::Reached => "reached",
            Verdict::EnoughForNow => "enough for now",
            Verdict::Missed => "MISSED",
        }
    }
}

/// What a row costs walhook's side, to tell where a low rate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Cost {
    /// CPU time, in microseconds.
    pub walhook_micros: f64,
    pub postgres_micros: f64,
    pub receiver_micros: f64,
    /// Entries of the event log's indexes that were read.
    pub log_reads: f64,
    /// Commits on the database; each is flushed to disk.
    pub commits: f64,
}

impl Cost {
    /// The median of each part; `None` of none.
    pub fn middle(all: &[Cost]) -> Option<Cost> {
        let middle = |part: fn(&Cost) -> f64| median(&all.iter().map(part).collect::<Vec<_>>());
        Some(Cost {
            walhook_micros: middle(|cost| cost.walhook_micros)?,
            postgres_micros: middle(|cost| cost.postgres_micros)?,
            receiver_micros: middle(|cost| cost.receiver_micros)?,
            log_reads: middle(|cost| cost.log_reads)?,
            commits: middle(|cost| cost.commits)?,
        })
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cost { walhook_micros, postgres_micros, receiver_micros, log_reads, commits } = self;
        write!(
            out,
            "CPU a row: walhook {walhook_micros:.1} µs, Postgres {postgres_micros:.1} µs, receiver \
             {receiver_micros:.1} µs; {:.1} rows a commit, {log_reads:.2} log reads a row",
            1.0 / commits
        )
    }
}

/// What one round gave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Sample {
    pub floor: Option<f64>,
    pub walhook: f64,
    pub cost_a_row: Option<Cost>,
}

impl Sample {
    /// Without costs.
    pub fn new(floor: Option<f64>, walhook: f64) -> Sample {
        Sample { floor, walhook, cost_a_row: None }
    }
}

/// A figure of the report.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figure {
    pub what: What,
    pub case: String,
    /// Medians.
    pub floor: Option<f64>,
    pub walhook: f64,
    /// The median of the rounds' own ratios: what disturbs a machine for a while disturbs both sides of a round.
    pub ratio: Option<f64>,
    pub goal: Goal,
    pub needed_now: Option<Goal>,
    pub verdict: Verdict,
    pub cost_a_row: Option<Cost>,
    pub rounds: Vec<Sample>,
    pub note: Option<String>,
}

impl Figure {
    /// Puts rounds together; `None` of no rounds.
    pub fn of(what: What, case: String, rounds: Vec<Sample>, goal: Goal, needed_now: Option<Goal>) -> Option<Figure> {
        let floors: Vec<f64> = rounds.iter().filter_map(|sample| sample.floor).collect();
        let walhooks: Vec<f64> = rounds.iter().map(|sample| sample.walhook).collect();
        let ratios: Vec<f64> = rounds.iter().filter_map(|sample| ratio(sample.walhook, sample.floor?)).collect();
        let (walhook, ratio) = (median(&walhooks)?, median(&ratios));
        let judged = ratio.unwrap_or(walhook);
        let verdict = match needed_now {
            _ if goal.is_met_by(judged) => Verdict::Reached,
            Some(needed) if needed.is_met_by(judged) => Verdict::EnoughForNow,
            _ => Verdict::Missed,
        };
        let costs: Vec<Cost> = rounds.iter().filter_map(|sample| sample.cost_a_row).collect();
        let cost = Cost::middle(&costs);
        let floor = median(&floors);
        Some(Figure {
            what,
            case,
            floor,
            walhook,
            ratio,
            goal,
            needed_now,
            verdict,
            cost_a_row: cost,
            rounds,
            note: None,
        })
    }

    /// Adds a remark.
    pub fn noting(mut self, note: String) -> Figure {
        self.note = Some(note);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(pairs: &[(f64, f64)], goal: Goal, needed: Option<Goal>) -> Figure {
        let rounds = pairs.iter().map(|(floor, walhook)| Sample::new(Some(*floor), *walhook)).collect();
        Figure::of(What::EndToEnd, "case".into(), rounds, goal, needed).expect("rounds")
    }

    #[test]
    fn the_ratio_is_that_of_a_middling_round_and_not_of_two_medians() {
        // The machine was slow for all of the second round.
        let figure = figure(&[(100.0, 50.0), (10.0, 5.0), (120.0, 72.0)], Goal::AtLeast(0.5), None);
        assert_eq!((figure.floor, figure.walhook, figure.ratio), (Some(100.0), 50.0, Some(0.5)));
        assert_eq!(figure.verdict, Verdict::Reached);
    }

    #[test]
    fn below_the_goal_is_not_always_missed() {
        let pair = [(100.0, 50.0)];
        let verdict = |goal, needed| figure(&pair, Goal::AtLeast(goal), needed).verdict;
        assert_eq!(verdict(0.6, Some(Goal::AtLeast(0.4))), Verdict::EnoughForNow);
        assert_eq!(verdict(0.6, Some(Goal::AtLeast(0.55))), Verdict::Missed);
        assert_eq!(verdict(0.6, None), Verdict::Missed);
    }

    #[test]
    fn without_a_floor_the_value_itself_is_judged() {
        let rounds = vec![Sample::new(None, 20.0)];
        let figure = Figure::of(What::Memory, "idle".into(), rounds, Goal::AtMost(32.0), None).expect("a round");
        assert_eq!((figure.ratio, figure.verdict), (None, Verdict::Reached));
        assert!(Figure::of(What::Memory, "none".into(), Vec::new(), Goal::AtMost(32.0), None).is_none());
    }
}
