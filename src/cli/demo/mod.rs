//! `walhook demo`: the whole way from a committed row to a webhook, on a Postgres of its own.
//!
//! It is a check as well as a show: a webhook that does not arrive, arrives twice or was never asked for is an error.

mod expectation;
mod payload;
mod receiver;
mod report;
mod shop;
mod stage;

use std::time::{Duration, Instant};

use anyhow::Context;
use tokio_postgres::SimpleQueryMessage;

use crate::cli::stage::StopSignal;
use crate::postgres::Session;
use expectation::Expectation;
use receiver::Receiver;
use report::{Report, Table};
use shop::{STATUS_QUERY, STEPS, Step};
use stage::Stage;

/// The attempts are recorded in batches, a moment after the answer.
const RECORDED_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Show walhook at work on a private throwaway Postgres; needs no database, leaves nothing behind.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// Leave everything running afterwards, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
}

/// Runs the demo and prints it.
///
/// # Errors
/// Where Postgres or walhook does not start, a webhook does not arrive in time, or a signal ends the demo early.
pub async fn run(args: DemoArgs) -> anyhow::Result<()> {
    let mut stop = StopSignal::listen()?;
    let mut report = Report::on_stdout();
    let mut show = tokio::select! {
        show = Box::pin(perform(&mut report, args.keep)) => show?,
        () = stop.received() => anyhow::bail!("stopped by a signal before the demo was over; nothing is left behind"),
    };
    if args.keep {
        report.keeping()?;
        tokio::select! {
            result = keep_showing(&mut show.receiver, &mut report) => result?,
            () = stop.received() => {}
        }
    }
    show.stage.end().await?;
    report.summary(&show.latencies, show.failures, show.started.elapsed())?;
    Ok(())
}

/// What is running once the story was told, and what is left to say about it.
struct Show {
    stage: Stage,
    receiver: Receiver,
    latencies: Vec<Duration>,
    failures: usize,
    started: Instant,
}

async fn perform(report: &mut Report, is_kept: bool) -> anyhow::Result<Show> {
    let started = Instant::now();
    report.title()?;
    let stage = Stage::set().await?;
    let session = stage.connect().await?;
    session.batch_execute(shop::SCHEMA).await.context("the shop's tables could not be made")?;
    let receiver = Receiver::start().await?;
    for trigger in shop::TRIGGERS {
        stage.create_trigger(&trigger.request(&receiver.url(trigger.path))).await?;
    }
    report.stage(&stage, shop::TRIGGERS)?;

    let mut show = Show { stage, receiver, latencies: Vec::new(), failures: 0, started };
    for step in STEPS {
        show.perform_step(step, &session, report).await?;
    }
    let status = wait_for_status(&session).await?;
    report.status(STATUS_QUERY, &status)?;
    report.look_further(&show.stage, is_kept)?;
    Ok(show)
}

impl Show {
    async fn perform_step(&mut self, step: &Step, session: &Session, report: &mut Report) -> anyhow::Result<()> {
        report.section(step.title)?;
        for statement in step.statements {
            report.statement(statement)?;
            session.batch_execute(statement).await.with_context(|| format!("the shop's own statement: {statement}"))?;
        }
        let (mut expectation, end) = (Expectation::new(step.expected), Instant::now() + step.within);
        while !expectation.is_met() {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(arrival) = tokio::time::timeout(left, self.receiver.next()).await else {
                anyhow::bail!(
                    "no webhook within {} s of {:?}: {} missing; walhook's log ends with:\n{}",
                    step.within.as_secs(),
                    step.title,
                    expectation.missing(),
                    self.stage.log_tail()
                );
            };
            let arrival = arrival?;
            expectation.accept(&arrival)?;
            report.arrival(&arrival)?;
            match arrival.is_success() {
                // A retried one tells more of the retry interval than of walhook.
                true if arrival.current_retry == 0 => self.latencies.push(arrival.latency()),
                true => {}
                false => self.failures += 1,
            }
        }
        step.note.map_or(Ok(()), |note| report.note(note))
    }
}

/// Prints what arrives because somebody tries things out.
async fn keep_showing(receiver: &mut Receiver, report: &mut Report) -> anyhow::Result<()> {
    loop {
        match receiver.next().await {
            Ok(arrival) => report.arrival(&arrival)?,
            Err(error) => report.note(&format!("{error:#}"))?,
        }
    }
}

/// The status as SQL gives it, once every event is recorded as delivered.
async fn wait_for_status(session: &Session) -> anyhow::Result<Table> {
    let end = Instant::now() + RECORDED_WITHIN;
    loop {
        let status = query(session, STATUS_QUERY).await.context("walhook.status could not be read")?;
        let (events, delivered) = (status.sum("events"), status.sum("delivered"));
        if events == shop::expected_events() && delivered == events {
            return Ok(status);
        }
        if Instant::now() >= end {
            anyhow::bail!(
                "{} events were to be delivered, but after {} s walhook.status says:\n{}",
                shop::expected_events(),
                RECORDED_WITHIN.as_secs(),
                status.lines().join("\n")
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn query(session: &Session, sql: &str) -> Result<Table, tokio_postgres::Error> {
    let mut table = Table::default();
    for message in session.simple_query(sql).await? {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                table.columns = columns.iter().map(|column| column.name().to_owned()).collect();
            }
            SimpleQueryMessage::Row(row) => {
                table.rows.push((0..row.len()).map(|index| row.get(index).unwrap_or("").to_owned()).collect());
            }
            _ => {}
        }
    }
    Ok(table)
}
