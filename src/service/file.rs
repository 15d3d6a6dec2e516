//! `walhook.toml`: the settings of a file. Everything that is wrong with it is found, not only the first thing.

use std::path::Path;

use clap::Args;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::RawSettings;
use super::config::Problems;

/// A flag that is no setting: it is for one start, not for every one.
const FLAG_ONLY: &str = "accept-gap";

/// Reads a file's settings. Problems are noted with file and line, never with a value; what can be read is given all
/// the same, so that the rest is checked too.
pub(super) fn read(path: &Path, problems: &mut Problems) -> RawSettings {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&path.display().to_string(), &text, problems),
        Err(error) => {
            problems.add(format!("--config {}: {error}", path.display()));
            RawSettings::default()
        }
    }
}

fn parse(name: &str, text: &str, problems: &mut Problems) -> RawSettings {
    let file = File { name, text };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        problems.add(format!("{}: {}", file.place(at), error.message()));
    }
    let table = file.texts(table.get_ref(), &setting_names(), problems);
    // Every setting is a text here, so this cannot fail unless a field is of another type.
    Value::Table(table).try_into().unwrap_or_else(|error: toml::de::Error| {
        problems.add(format!("--config {name}: {}", error.message()));
        RawSettings::default()
    })
}

/// The keys of the file are the names of the flags.
fn setting_names() -> Vec<String> {
    let command = RawSettings::augment_args(clap::Command::new("settings"));
    let names = command.get_arguments().filter_map(|argument| argument.get_long());
    names.filter(|name| *name != FLAG_ONLY).map(ToOwned::to_owned).collect()
}

struct File<'a> {
    name: &'a str,
    text: &'a str,
}

impl File<'_> {
    fn place(&self, at: usize) -> String {
        let line = self.text.as_bytes()[..at.min(self.text.len())].iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("--config {}, line {line}", self.name)
    }

    /// The entries of a table whose keys are known and whose values are texts.
    fn texts(&self, table: &DeTable<'_>, known: &[String], problems: &mut Problems) -> Table {
        let mut texts = Table::new();
        for (key, value) in table {
            let name: &str = key.get_ref();
            if !known.iter().any(|known| known == name) {
                problems.add(self.unknown(key.span().start, name, known));
            } else if let Some(text) = self.text(name, value, problems) {
                texts.insert(name.to_owned(), Value::String(text));
            }
        }
        texts
    }

    fn unknown(&self, at: usize, name: &str, known: &[String]) -> String {
        let nearest = known.iter().min_by_key(|known| strsim::damerau_levenshtein(known, name));
        let nearest = nearest.map(String::as_str).unwrap_or_default();
        format!("{}: unknown key {name:?}; the nearest one is {nearest:?}", self.place(at))
    }

    fn text(&self, name: &str, value: &Spanned<DeValue<'_>>, problems: &mut Problems) -> Option<String> {
        let text = value.get_ref().as_str().map(ToOwned::to_owned);
        if text.is_none() {
            let found = value.get_ref().type_str();
            let place = self.place(value.span().start);
            problems.add(format!("{place}: {name} is of type {found}; write its value in quotes"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems_of(text: &str) -> String {
        let mut problems = Problems::default();
        parse("walhook.toml", text, &mut problems);
        problems.to_string()
    }

    #[test]
    fn a_file_gives_what_the_flags_would() {
        let mut problems = Problems::default();
        let settings = parse("walhook.toml", "listen = \"127.0.0.1:1\"\nsource = 'file'", &mut problems);
        assert!(problems.is_empty(), "{problems}");
        assert_eq!((settings.listen.as_deref(), settings.source.as_deref()), (Some("127.0.0.1:1"), Some("file")));
    }

    #[test]
    fn everything_wrong_is_found_with_its_line_and_no_value() {
        let text =
            "lisen = \"x\"\ndatabase_url = \"postgres://me:hunter2@db\"\n\ngrace = 30\naccept-gap = true\nslot = \n";
        let found = problems_of(text);
        for part in [
            "walhook.toml, line 1: unknown key \"lisen\"; the nearest one is \"listen\"",
            "line 2: unknown key \"database_url\"; the nearest one is \"database-url\"",
            "line 4: grace is of type integer",
            "line 5: unknown key \"accept-gap\"",
            "line 6: ",
        ] {
            assert!(found.contains(part), "{part:?} is not in: {found}");
        }
        assert!(!found.contains("hunter2"), "{found}");
    }

    #[test]
    fn every_flag_but_those_for_one_start_is_a_key() {
        let all: String = setting_names().iter().map(|name| format!("{name} = \"x\"\n")).collect();
        assert!(!all.contains("accept-gap") && all.contains("database-url-file"));
        let mut problems = Problems::default();
        let settings = parse("walhook.toml", &all, &mut problems);
        assert!(problems.is_empty(), "{problems}");
        assert_eq!(settings.log_format.as_deref(), Some("x"));
    }
}
