//! The report: one table with a heading a kind of figure, then what each kind is. Or the same as JSON.

use serde::Serialize;

use super::figure::{Figure, What};
use super::machine::Machine;

/// Everything that is printed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub machine: Machine,
    pub rounds: usize,
    pub rows: u64,
    pub took_seconds: u64,
    pub figures: Vec<Figure>,
    /// What could not be measured, and why.
    pub skipped: Vec<String>,
}

const DEBUG_WARNING: &str = "THIS IS A DEBUG BUILD: these figures say nothing. Use `make bench`.";
const HEADINGS: [&str; 7] = ["", "floor", "walhook", "ratio", "goal", "now", ""];

impl Report {
    /// For programs.
    ///
    /// # Errors
    /// None that can happen with these types.
    pub fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut lines = self.head();
        for what in What::ALL {
            let figures: Vec<&Figure> = self.figures.iter().filter(|figure| figure.what == what).collect();
            if !figures.is_empty() {
                lines.push(String::new());
                lines.push(what.title().to_owned());
                lines.extend(wrap(&format!("({})", what.meaning()), 110).into_iter().map(|line| format!("  {line}")));
                lines.extend(table(&figures).into_iter().map(|line| format!("  {line}")));
                lines.extend(figures.iter().filter_map(|figure| remark(figure)).map(|line| format!("    {line}")));
            }
        }
        lines.push(String::new());
        lines.extend(self.skipped.iter().map(|reason| format!("Not measured: {reason}")));
        lines.push(format!("Took {} s. Nothing is left behind.", self.took_seconds));
        if self.machine.is_debug() {
            lines.push(DEBUG_WARNING.to_owned());
        }
        lines.join("\n")
    }

    fn head(&self) -> Vec<String> {
        let machine = &self.machine;
        let memory = machine.memory_mib.map_or("memory unknown".into(), |mib| format!("{mib} MiB"));
        let processor = machine.processor.as_deref().unwrap_or("processor unknown");
        let mut lines = vec![
            format!("walhook {} bench, {} build", machine.walhook, machine.build),
            format!("{} cores, {memory}, {processor}; Postgres {}, fsync on", machine.cores, machine.postgres),
            format!(
                "Medians of {} rounds, {} rows a measurement; ratios are of a round's pair.",
                self.rounds, self.rows
            ),
        ];
        if machine.is_debug() {
            lines.insert(0, DEBUG_WARNING.to_owned());
        }
        lines
    }
}

fn table(figures: &[&Figure]) -> Vec<String> {
    let none = || "-".to_owned();
    let row = |figure: &&Figure| {
        [
            figure.case.clone(),
            figure.floor.map_or_else(none, number),
            number(figure.walhook),
            figure.ratio.map_or_else(none, |ratio| format!("{ratio:.2}")),
            figure.goal.to_string(),
            figure.needed_now.map_or_else(none, |goal| goal.to_string()),
            figure.verdict.text().to_owned(),
        ]
    };
    let rows: Vec<[String; 7]> = std::iter::once(HEADINGS.map(str::to_owned)).chain(figures.iter().map(row)).collect();
    let width = |index: usize| rows.iter().map(|row| row[index].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    let line = |row: &[String; 7]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(index, (cell, width))| match index {
            0 | 6 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn remark(figure: &Figure) -> Option<String> {
    let cost = figure.cost_a_row.map(|cost| cost.to_string());
    let parts: Vec<String> = cost.into_iter().chain(figure.note.clone()).collect();
    (!parts.is_empty()).then(|| format!("{}: {}", figure.case, parts.join("; ")))
}

/// Three digits that count, and thousands apart.
fn number(value: f64) -> String {
    if value < 100.0 {
        return if value < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") };
    }
    let digits = format!("{value:.0}");
    let group = |(index, digit): (usize, char)| {
        let is_start = index > 0 && (digits.len() - index).is_multiple_of(3);
        is_start.then_some(',').into_iter().chain([digit])
    };
    digits.chars().enumerate().flat_map(group).collect()
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::figure::{Cost, Goal, Sample};
    use super::*;

    fn figure(case: &str, floor: f64, walhook: f64) -> Figure {
        let cost =
            Cost { walhook_micros: 12.0, postgres_micros: 30.25, receiver_micros: 0.0, log_reads: 1.5, commits: 0.01 };
        let sample = Sample { floor: Some(floor), walhook, cost_a_row: Some(cost) };
        let (goal, needed) = (Goal::AtLeast(0.9), Some(Goal::AtLeast(0.6)));
        Figure::of(What::WalToQueue, case.into(), vec![sample], goal, needed).expect("a round")
    }

    #[test]
    fn numbers_are_as_long_as_they_tell_something() {
        let numbers = [0.4567, 12.34, 123.4, 85_000.4, 1_234_567.0].map(number);
        assert_eq!(numbers, ["0.46", "12.3", "123", "85,000", "1,234,567"]);
    }

    #[test]
    fn names_are_set_left_and_numbers_right() {
        let figures = [figure("a", 90_000.0, 63_000.0), figure("longer", 9_000.0, 8_500.0)];
        let lines = table(&figures.iter().collect::<Vec<_>>());
        assert_eq!(
            lines,
            [
                "         floor  walhook  ratio   goal    now",
                "a       90,000   63,000   0.70  ≥ 0.9  ≥ 0.6  enough for now",
                "longer   9,000    8,500   0.94  ≥ 0.9  ≥ 0.6  reached",
            ]
        );
    }

    #[test]
    fn the_report_says_what_each_figure_is_on_which_machine_and_warns_of_a_debug_build() {
        let machine = Machine {
            cores: 2,
            memory_mib: Some(4096),
            processor: None,
            postgres: "15.8".into(),
            walhook: "1",
            build: "debug",
        };
        let figures = vec![figure("a", 4.0, 2.0)];
        let skipped = vec!["writes, for want of pgbench".to_owned()];
        let report = Report { machine, rounds: 3, rows: 1000, took_seconds: 9, figures, skipped };
        let text = report.text();
        for part in
            ["2 cores, 4096 MiB", "Postgres 15.8", "pg_recvlogical", "MISSED", "walhook 12.0 µs", "100.0 rows a commit"]
        {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert!(text.starts_with(DEBUG_WARNING) && text.ends_with(DEBUG_WARNING));
        let json: serde_json::Value = serde_json::from_str(&report.json().expect("JSON")).expect("JSON");
        assert_eq!(json["figures"][0]["goal"]["at_least"], 0.9);
        assert_eq!(json["figures"][0]["verdict"], "missed");
        assert_eq!(json["machine"]["cores"], 2);
    }

    #[test]
    fn text_wraps_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
    }
}
