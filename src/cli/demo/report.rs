//! Prints the demo. Everything is laid out first and coloured last, so that columns align with and without colours.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::payload::Arrival;
use super::shop::Trigger;
use super::stage::Stage;

/// Colours by meaning, as SGR parameters.
#[derive(Clone, Copy)]
enum Tone {
    Strong,
    Faint,
    Good,
    Bad,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Tone::Strong => "1",
            Tone::Faint => "2",
            Tone::Good => "32",
            Tone::Bad => "31",
        }
    }
}

/// Writes sections and lines to standard output. A closed pipe is an error, not a panic.
pub(super) struct Report {
    colours: bool,
    section: usize,
}

impl Report {
    /// With colours where a person looks, unless `NO_COLOR` is set.
    pub fn on_stdout() -> Report {
        let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Report { colours: io::stdout().is_terminal() && !is_refused, section: 0 }
    }

    fn paint(&self, tone: Tone, text: &str) -> String {
        if self.colours { format!("\x1b[{}m{text}\x1b[0m", tone.code()) } else { text.to_owned() }
    }

    fn line(&self, text: &str) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        Ok(out.flush()?)
    }

    /// The first lines.
    pub fn title(&self) -> anyhow::Result<()> {
        self.line("")?;
        self.line(&format!("{}  committed rows become webhooks", self.paint(Tone::Strong, "walhook demo")))?;
        self.line(&self.paint(Tone::Faint, "starting a private Postgres and walhook; this takes a few seconds"))
    }

    /// What runs where.
    pub fn stage(&mut self, stage: &Stage, triggers: &[Trigger]) -> anyhow::Result<()> {
        self.section("The stage")?;
        let (version, address, ready_after) = stage.facts();
        self.line(&format!("  {:<10}{version} on {address}, wal_level logical, thrown away at the end", "Postgres"))?;
        let ready = milliseconds(ready_after);
        self.line(&format!("  {:<10}{}, ready after {ready}", "walhook", stage.api_url()))?;
        for (index, trigger) in triggers.iter().enumerate() {
            let label = if index == 0 { "triggers" } else { "" };
            let table = format!("shop.{}", trigger.table);
            self.line(&format!("  {label:<10}{:<17} {table:<17} {}", trigger.name, trigger.watches))?;
        }
        Ok(())
    }

    /// A numbered heading.
    pub fn section(&mut self, title: &str) -> anyhow::Result<()> {
        self.section += 1;
        self.line("")?;
        self.line(&self.paint(Tone::Strong, &format!("{}. {title}", self.section)))
    }

    /// SQL as it is run.
    pub fn statement(&self, sql: &str) -> anyhow::Result<()> {
        self.line(&self.paint(Tone::Faint, &format!("  sql> {sql};")))
    }

    /// One webhook.
    pub fn arrival(&self, arrival: &Arrival) -> anyhow::Result<()> {
        let line = arrival_line(arrival);
        let tone = if arrival.is_success() { Tone::Good } else { Tone::Bad };
        self.line(&format!("  {}{}", self.paint(tone, &line.marked), line.rest))
    }

    /// A remark.
    pub fn note(&self, text: &str) -> anyhow::Result<()> {
        self.line(&format!("  {text}"))
    }

    /// The status view and the SQL that shows it.
    pub fn status(&mut self, sql: &str, status: &Table) -> anyhow::Result<()> {
        self.section("The delivery status, in SQL")?;
        self.statement(sql)?;
        let lines = status.lines();
        for (index, line) in lines.iter().enumerate() {
            let line = format!("  {line}");
            self.line(&if index == 0 { self.paint(Tone::Strong, &line) } else { line })?;
        }
        Ok(())
    }

    /// Commands to go on with.
    pub fn look_further(&mut self, stage: &Stage, is_kept: bool) -> anyhow::Result<()> {
        self.section("To look further")?;
        if !is_kept {
            self.note("walhook demo --keep leaves everything running, for commands like these:")?;
        }
        let call = r#"{"type":"invoke_event_trigger","args":{"name":"customer_changed","payload":{"hello":"you"}}}"#;
        self.line(&format!("  {} '{}'", stage.psql(), stage.database_url()))?;
        self.line("  sql> select * from walhook.events order by committed_at;")?;
        self.line("  sql> select * from walhook.attempts order by started_at;")?;
        self.line(&format!("  curl -s {}/v1/query -H 'Content-Type: application/json' \\", stage.api_url()))?;
        self.line(&format!("    -d '{call}'"))
    }

    /// Said before waiting for Ctrl-C.
    pub fn keeping(&self) -> anyhow::Result<()> {
        self.line("")?;
        self.line(&self.paint(Tone::Strong, "Running until Ctrl-C. Webhooks are shown as they arrive."))
    }

    /// The last line.
    pub fn summary(&self, latencies: &[Duration], failures: usize, took: Duration) -> anyhow::Result<()> {
        self.line("")?;
        self.line(&self.paint(Tone::Good, &summary_line(latencies, failures)))?;
        self.line(&format!("Took {:.1} s. Nothing is left behind.", took.as_secs_f64()))
    }
}

/// A webhook's line: the part that shows by colour how it went, and the rest.
struct ArrivalLine {
    marked: String,
    rest: String,
}

fn arrival_line(arrival: &Arrival) -> ArrivalLine {
    let (mark, attempts) = (if arrival.is_success() { "✓" } else { "✗" }, arrival.max_retries + 1);
    let attempt = match arrival.max_retries {
        0 => String::new(),
        _ => format!("attempt {} of {attempts}  ", arrival.current_retry + 1),
    };
    ArrivalLine {
        marked: format!("{mark} {} {:>10}", arrival.status, milliseconds(arrival.latency())),
        rest: format!(
            "  {:<17} {:<6} {:<17} {attempt}{}",
            arrival.trigger, arrival.operation, arrival.table, arrival.detail
        )
        .trim_end()
        .to_owned(),
    }
}

fn summary_line(latencies: &[Duration], failures: usize) -> String {
    let mut sorted = latencies.to_vec();
    sorted.sort();
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    let slowest = sorted.last().copied().unwrap_or_default();
    format!(
        "Every webhook arrived. Commit to webhook: {} median, {} at most, over {} first attempts; \
         {failures} failures retried.",
        milliseconds(median),
        milliseconds(slowest),
        sorted.len()
    )
}

/// `2.9 ms`.
fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

/// The result of a query, as text.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// The sum of a column of whole numbers; what is none counts as 0.
    pub fn sum(&self, column: &str) -> u64 {
        let Some(index) = self.columns.iter().position(|name| name == column) else { return 0 };
        self.rows.iter().filter_map(|row| row.get(index)?.parse::<u64>().ok()).sum()
    }

    /// A heading and a line a row; columns of numbers are set to the right.
    pub fn lines(&self) -> Vec<String> {
        let all = || std::iter::once(&self.columns).chain(&self.rows);
        let width = |index: usize| {
            all().filter_map(|row| row.get(index)).map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let is_numeric =
            |index: usize| self.rows.iter().all(|row| row.get(index).is_some_and(|cell| cell.parse::<f64>().is_ok()));
        let shape: Vec<(usize, bool)> =
            (0..self.columns.len()).map(|index| (width(index), is_numeric(index))).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&shape).map(|(cell, (width, is_numeric))| match is_numeric {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        all().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(status: u16, current_retry: u64, max_retries: u64) -> Arrival {
        let committed_at = "2026-01-01T00:00:00Z".parse().expect("a time");
        Arrival {
            event_id: "1".into(),
            trigger: "order_shipped".into(),
            operation: "UPDATE".into(),
            table: "shop.orders".into(),
            current_retry,
            max_retries,
            status,
            detail: "status: new → shipped".into(),
            committed_at,
            arrived_at: committed_at + Duration::from_micros(2940),
        }
    }

    #[test]
    fn a_webhook_is_one_line_with_its_time_and_attempt() {
        let line = arrival_line(&arrival(204, 0, 0));
        assert_eq!(line.marked, "✓ 204     2.9 ms");
        assert_eq!(line.rest, "  order_shipped     UPDATE shop.orders       status: new → shipped");
        let line = arrival_line(&arrival(500, 1, 3));
        assert_eq!(line.marked, "✗ 500     2.9 ms");
        assert!(line.rest.contains("attempt 2 of 4"), "{}", line.rest);
    }

    #[test]
    fn a_table_aligns_names_left_and_numbers_right() {
        let rows = [["customer_changed", "12"], ["a", "3"]];
        let table = Table {
            columns: vec!["trigger".into(), "events".into()],
            rows: rows.map(|row| row.map(str::to_owned).to_vec()).to_vec(),
        };
        assert_eq!(table.lines(), ["trigger           events", "customer_changed      12", "a                      3"]);
        assert_eq!((table.sum("events"), table.sum("trigger"), table.sum("none")), (15, 0, 0));
    }

    #[test]
    fn the_summary_says_median_and_slowest() {
        let latencies = [3, 1, 20].map(Duration::from_millis);
        let expected = "3.0 ms median, 20.0 ms at most, over 3 first attempts; 2 failures retried.";
        assert!(summary_line(&latencies, 2).ends_with(expected));
    }

    #[test]
    fn colours_are_only_added_around_the_text() {
        let plain = Report { colours: false, section: 0 };
        let coloured = Report { colours: true, section: 0 };
        assert_eq!(plain.paint(Tone::Good, "text"), "text");
        assert_eq!(coloured.paint(Tone::Good, "text"), "\x1b[32mtext\x1b[0m");
    }
}
