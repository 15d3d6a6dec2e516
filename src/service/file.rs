//! `walhook.toml`: the settings of a file. Everything that is wrong with it is found, not only the first thing.

use std::path::Path;

use clap::Args;
use serde::de::DeserializeOwned;
use toml::de::{DeArray, DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::config::Problems;
use super::{RawSettings, RawSource};

/// A flag that is no setting: it is for one start, not for every one.
const FLAG_ONLY: &str = "accept-gap";
/// The flag and key of the one source's name, and the key of the tables of several.
const SOURCE: &str = "source";
/// The key of a source's name in its table.
const NAME: &str = "name";

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
    let tables = file.sources(table.get_ref(), problems);
    let mut settings: RawSettings = file.read(table.get_ref(), &setting_names(), problems);
    settings.sources = tables;
    settings
}

/// The keys of the file are the names of the flags.
fn setting_names() -> Vec<String> {
    let command = RawSettings::augment_args(clap::Command::new("settings"));
    let names = command.get_arguments().filter_map(|argument| argument.get_long());
    names.filter(|name| *name != FLAG_ONLY).map(ToOwned::to_owned).collect()
}

/// Those of a `[[source]]` table too, but for the source's name.
fn source_names() -> Vec<String> {
    let command = RawSource::augment_args(clap::Command::new("source"));
    let names = command.get_arguments().filter_map(|argument| argument.get_long());
    names.map(|name| if name == SOURCE { NAME } else { name }).map(ToOwned::to_owned).collect()
}

/// `source` is a text, or tables.
fn source_tables<'a, 'b>(table: &'a DeTable<'b>) -> Option<&'a DeArray<'b>> {
    let (_, value) = table.iter().find(|(key, _)| key.get_ref() == SOURCE)?;
    value.get_ref().as_array()
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

    fn sources(&self, table: &DeTable<'_>, problems: &mut Problems) -> Vec<RawSource> {
        let mut sources = Vec::new();
        for value in source_tables(table).into_iter().flatten() {
            match value.get_ref().as_table() {
                Some(table) => sources.push(self.read(table, &source_names(), problems)),
                None => problems.add(format!("{}: write each source as [[source]]", self.place(value.span().start))),
            }
        }
        sources
    }

    fn read<T: DeserializeOwned + Default>(&self, table: &DeTable<'_>, known: &[String], problems: &mut Problems) -> T {
        let texts = self.texts(table, known, problems);
        // Every setting is a text here, so this cannot fail unless a field is of another type.
        Value::Table(texts).try_into().unwrap_or_else(|error: toml::de::Error| {
            problems.add(format!("--config {}: {}", self.name, error.message()));
            T::default()
        })
    }

    /// The entries of a table whose keys are known and whose values are texts.
    fn texts(&self, table: &DeTable<'_>, known: &[String], problems: &mut Problems) -> Table {
        let mut texts = Table::new();
        for (key, value) in table {
            let name: &str = key.get_ref();
            if name == SOURCE && value.get_ref().is_array() && known.iter().any(|known| known == SOURCE) {
                continue;
            }
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
        assert_eq!((settings.listen.as_deref(), settings.source.name.as_deref()), (Some("127.0.0.1:1"), Some("file")));
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
    fn sources_are_tables_with_the_keys_of_one() {
        let text = "queue-url = 'q'\n[[source]]\nname = 'a'\ndatabase-url = 'u'\n[[source]]\nname = 'b'\nslot = 's'\n";
        let mut problems = Problems::default();
        let settings = parse("walhook.toml", text, &mut problems);
        assert!(problems.is_empty(), "{problems}");
        let [one, two] = &settings.sources[..] else { panic!("{settings:?}") };
        assert_eq!((one.name.as_deref(), one.database_url.as_deref()), (Some("a"), Some("u")));
        assert_eq!((two.name.as_deref(), two.slot.as_deref()), (Some("b"), Some("s")));
        assert_eq!((settings.source, settings.queue_url.as_deref()), (RawSource::default(), Some("q")));
    }

    #[test]
    fn what_is_wrong_in_a_source_is_found_as_everywhere() {
        let found = problems_of("[[source]]\nnam = 'a'\nslot = 1\nlisten = 'x'\nsource = 'y'\n");
        for part in [
            "line 2: unknown key \"nam\"; the nearest one is \"name\"",
            "line 3: slot is of type integer",
            "line 4: unknown key \"listen\"",
            "line 5: unknown key \"source\"",
        ] {
            assert!(found.contains(part), "{part:?} is not in: {found}");
        }
        assert!(problems_of("source = ['a']").contains("line 1: write each source as [[source]]"));
        assert!(problems_of("[source]\nname = 'a'").contains("line 1: source is of type table"));
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
