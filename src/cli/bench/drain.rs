//! How fast a backlog is worked off, against the way from WAL to webhook with nothing behind; and whether a read of the
//! log costs more the more there is behind.

use uuid::Uuid;

use super::figure::{Figure, Goal, Sample, What};
use super::ground::{Database, Ground};
use super::load::Shape;
use super::receiver::COUNTED;
use super::statistics::median;
use super::throughput::{prepare, rate, wait_until_queued, work_off};
use super::{Plan, say};
use crate::model::LANES;
use crate::postgres::Session;
use crate::queue::{self, Bounds};

const SHAPE: Shape = Shape { row_bytes: 200, transaction_rows: 1000 };
/// A read near the log's end, which the others are held against.
const NEAR: u64 = 10_000;
/// Each place of a read is so many times as far from the end as the one before.
const FURTHER: u64 = 10;
/// What delivery asks for when a trigger has all of its room.
const READ_ROWS: u64 = 4_000;
/// Reads at each place, by turns.
const READS: usize = 9;

/// Whether the application has a transaction open, from before the backlog until after its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Idle {
    Nobody,
    /// With a transaction id and a snapshot, so that nothing that is dead meanwhile can be cleaned away.
    Transaction,
}

impl Idle {
    async fn open(self, database: &Database<'_>) -> anyhow::Result<Option<Session>> {
        if self == Idle::Nobody {
            return Ok(None);
        }
        let session = database.connect().await?;
        let idle = "set idle_in_transaction_session_timeout = 0; begin isolation level repeatable read; \
                    select pg_current_xact_id()";
        session.batch_execute(idle).await?;
        Ok(Some(session))
    }
}

/// Measures the rate with nothing behind and both drains in each round.
///
/// # Errors
/// Where walhook ends, or does not get through in time.
pub(super) async fn measure(ground: &Ground, plan: &Plan) -> anyhow::Result<Vec<Figure>> {
    let (behind, mut samples, mut reads) = (plan.backlog, [Vec::new(), Vec::new()], Reads::new(plan.backlog));
    for round in 1..=plan.rounds {
        say(&format!("drain, round {round} of {}: nothing behind", plan.rounds));
        let floor = nothing_behind(ground, behind).await?;
        for (idle, samples) in [Idle::Nobody, Idle::Transaction].into_iter().zip(&mut samples) {
            let remark = if idle == Idle::Transaction { ", a transaction held open" } else { "" };
            say(&format!("drain, round {round} of {}: {behind} events behind{remark}", plan.rounds));
            let drained = drain(ground, behind, idle, &mut reads).await?;
            samples.push(Sample { floor: Some(floor), ..drained });
        }
    }
    let cases = ["", ", an idle transaction held open"].map(|remark| format!("{behind} events behind{remark}"));
    let figure = |(case, samples)| Figure::of(What::Drain, case, samples, Goal::AtLeast(0.9), None);
    Ok(cases.into_iter().zip(samples).filter_map(figure).chain(reads.figures()).collect())
}

async fn nothing_behind(ground: &Ground, rows: u64) -> anyhow::Result<f64> {
    let database = prepare(ground, COUNTED).await?;
    SHAPE.load(&database.session, rows).await?;
    let (took, _) = work_off(ground, &database, rows).await?;
    database.remove().await?;
    Ok(rate(rows, took))
}

async fn drain(ground: &Ground, rows: u64, idle: Idle, reads: &mut Reads) -> anyhow::Result<Sample> {
    let database = prepare(ground, COUNTED).await?;
    let held = idle.open(&database).await?;
    SHAPE.load(&database.session, rows).await?;
    let mut capture = database.launch("capture")?;
    wait_until_queued(&database, &mut capture, rows).await?;
    database.stop(capture).await?;
    reads.look(&database.session).await?;
    // What was appended is not the drain's to write out.
    database.session.batch_execute("checkpoint").await?;
    let (took, cost) = work_off(ground, &database, rows).await?;
    drop(held);
    database.remove().await?;
    Ok(Sample { floor: None, walhook: rate(rows, took), cost_a_row: Some(cost) })
}

/// What reads of the log cost, the nearest to its end first.
struct Reads(Vec<Place>);

struct Place {
    behind: u64,
    pages: Vec<f64>,
    millis: Vec<f64>,
}

impl Reads {
    fn new(backlog: u64) -> Reads {
        let nearer = std::iter::successors(Some(NEAR.min(backlog / 2)), |behind| Some(behind * FURTHER));
        let places = nearer.take_while(|behind| *behind < backlog).chain([backlog]);
        Reads(places.map(|behind| Place { behind, pages: Vec::new(), millis: Vec::new() }).collect())
    }

    async fn look(&mut self, session: &Session) -> anyhow::Result<()> {
        let ids = session.query_one("select id, source_id from walhook.trigger", &[]).await?;
        let (trigger_id, source_id): (Uuid, i16) = (ids.get(0), ids.get(1));
        let last: i64 = session.query_one("select max(seq) from walhook.event", &[]).await?.get(0);
        let rows = i64::try_from(self.0.first().map_or(0, |nearest| nearest.behind).min(READ_ROWS))?;
        for _ in 0..READS {
            for place in &mut self.0 {
                let after = last - i64::try_from(place.behind)?;
                let floor = [after; LANES as usize];
                let bounds = Bounds { after, up_to: last, rows, bytes: i64::MAX, floor };
                let told = queue::explain_backlog(&**session, trigger_id, source_id, bounds).await?;
                let count = |name: &str| told[0]["Plan"][name].as_f64().unwrap_or_default();
                place.pages.push(count("Shared Hit Blocks") + count("Shared Read Blocks"));
                place.millis.extend(told[0]["Execution Time"].as_f64());
            }
        }
        Ok(())
    }

    fn figures(&self) -> Vec<Figure> {
        let Some((nearest, others)) = self.0.split_first() else { return Vec::new() };
        let figure = |place: &Place| {
            let sample = Sample::new(median(&nearest.pages), median(&place.pages)?);
            let note = format!(
                "{:.2} ms with {} behind, {:.2} ms with {}",
                median(&nearest.millis)?,
                nearest.behind,
                median(&place.millis)?,
                place.behind
            );
            let case = format!("{} events behind", place.behind);
            Some(Figure::of(What::Claim, case, vec![sample], Goal::AtMost(1.2), None)?.noting(note))
        };
        others.iter().filter_map(figure).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_at_places_further_and_further_from_the_logs_end() {
        let places = |backlog| Reads::new(backlog).0.iter().map(|place| place.behind).collect::<Vec<_>>();
        assert_eq!(places(1_000_000), [10_000, 100_000, 1_000_000]);
        assert_eq!(places(20_000), [10_000, 20_000]);
        assert_eq!(places(1_000), [500, 1_000]);
    }

    #[test]
    fn a_figure_holds_a_far_read_against_the_nearest() {
        let mut reads = Reads::new(100_000);
        for (place, pages) in reads.0.iter_mut().zip([100.0, 103.0]) {
            (place.pages, place.millis) = (vec![pages; 3], vec![1.0; 3]);
        }
        let figures = reads.figures();
        assert_eq!((figures.len(), figures[0].ratio), (1, Some(1.03)));
        assert_eq!(figures[0].case, "100000 events behind");
    }
}
