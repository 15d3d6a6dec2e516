//! Rules of the house that the compiler does not hold: which room may use which, sizes, headers, what must not be
//! there. Each failure names file and line and says what to do. Reads text only; it knows no more of Rust than it
//! needs.

use std::fs;
use std::path::{Path, PathBuf};

/// From the top down: a room uses the rooms above it.
const ROOMS: [&str; 13] = [
    "model", "pgoutput", "matching", "postgres", "queue", "node", "capture", "delivery", "triggers", "api", "console",
    "service", "cli",
];
/// Rooms that do not know each other though one stands above the other: `queue` is the contract between them.
const STRANGERS: [(&str, &str); 2] = [("capture", "delivery"), ("delivery", "capture")];
const FILE_LINES: usize = 400;
const FUNCTION_LINES: usize = 70;
/// A test may hold a long table of cases.
const TEST_FUNCTION_LINES: usize = 130;
const LINE_WIDTH: usize = 120;

/// What was found wrong, one line each.
#[derive(Default)]
struct Findings(Vec<String>);

impl Findings {
    fn check(&mut self, holds: bool, file: &Path, line: usize, cure: impl AsRef<str>) {
        if !holds {
            self.0.push(format!("{}:{line}: {}", file.display(), cure.as_ref()));
        }
    }

    fn report(self) {
        assert!(self.0.is_empty(), "{} findings\n{}", self.0.len(), self.0.join("\n"));
    }
}

/// A source file, its path as seen from the package.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// The lines before a trailing `#[cfg(test)] mod …`; none of a file that holds tests only.
    fn product_lines(&self) -> Vec<(usize, &str)> {
        if self.path.file_name().is_some_and(|name| name == "tests.rs") {
            return Vec::new();
        }
        let lines: Vec<(usize, &str)> = self.lines().collect();
        let end = lines.windows(2).position(|pair| pair[0].1 == "#[cfg(test)]" && pair[1].1.starts_with("mod "));
        lines[..end.unwrap_or(lines.len())].to_vec()
    }

    /// The room it stands in; `None` for `lib.rs` and `main.rs`.
    fn room(&self) -> Option<&str> {
        let mut parts = self.path.iter().skip(1);
        let first = parts.next()?.to_str()?;
        if parts.next().is_some() { Some(first) } else { first.strip_suffix(".rs").filter(|name| ROOMS.contains(name)) }
    }

    /// How many `super::` lead from a top-level item of this file to the crate's root.
    fn depth(&self) -> usize {
        let parts = self.path.iter().count() - 1;
        let is_root = self.path.ends_with("mod.rs");
        if is_root { parts - 1 } else { parts }
    }
}

fn files(under: &str, extension: &str) -> Vec<Source> {
    let mut found = Vec::new();
    collect(Path::new(under), extension, &mut found);
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

fn collect(directory: &Path, extension: &str, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(package().join(directory)) else { return };
    for entry in entries.flatten() {
        let path = directory.join(entry.file_name());
        if entry.path().is_dir() {
            collect(&path, extension, found);
        } else if path.extension().is_some_and(|known| known == extension) {
            let text = fs::read_to_string(entry.path()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            found.push(Source { path, text });
        }
    }
}

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Without what follows `//`, so that prose does not count; a `//` inside a string (a URL) does no harm here.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// The rooms a line names through `crate::` or enough `super::`.
fn rooms_named(line: &str, depth: usize) -> Vec<&'static str> {
    let (line, up) = (code(line), "super::".repeat(depth));
    let prefixes = ["crate::", "walhook::", up.as_str()];
    let names = |room: &&str| {
        prefixes.iter().filter(|prefix| !prefix.is_empty()).any(|prefix| {
            let path = format!("{prefix}{room}");
            line.match_indices(&path).any(|(at, _)| {
                let after = line[at + path.len()..].chars().next();
                let before = line[..at].chars().next_back();
                let is_longer = |next: Option<char>| next.is_some_and(|next| next.is_alphanumeric() || next == '_');
                !is_longer(after) && !is_longer(before) && before != Some(':')
            })
        })
    };
    ROOMS.into_iter().filter(|room| names(room)).collect()
}

fn may_use(room: &str, other: &str) -> bool {
    let place = |name| ROOMS.iter().position(|known| *known == name);
    room == other || (place(other) < place(room) && !STRANGERS.contains(&(room, other)))
}

#[test]
fn rooms_use_only_the_rooms_above_them() {
    let mut findings = Findings::default();
    for source in files("src", "rs") {
        let Some(room) = source.room() else { continue };
        let known = ROOMS.contains(&room);
        findings.check(known, &source.path, 1, format!("{room} is no room; move the file, or add the room to ROOMS"));
        for (number, line) in source.lines() {
            let grouped = code(line).trim_start().starts_with("use crate::{");
            findings.check(!grouped, &source.path, number, "one `use crate::room::…` for each room, not a group");
            for other in rooms_named(line, source.depth()) {
                let cure = format!("{room} may not use {other}; pass what it needs as an argument or move it up");
                findings.check(!known || may_use(room, other), &source.path, number, cure);
            }
        }
    }
    findings.report();
}

#[test]
fn the_room_check_can_fail() {
    assert_eq!(rooms_named("use crate::delivery::Handle;", 2), ["delivery"]);
    assert_eq!(rooms_named("use super::super::queue::Log;", 2), ["queue"]);
    assert_eq!(rooms_named("use super::queue::Log; // crate::api", 2), [""; 0]);
    assert_eq!(rooms_named("crate::models::x(crate::model::Lsn)", 2), ["model"]);
    assert!(may_use("delivery", "queue") && !may_use("queue", "delivery"));
    assert!(!may_use("capture", "delivery") && !may_use("delivery", "capture"));
}

#[test]
fn files_say_what_they_are_and_stay_small() {
    let mut findings = Findings::default();
    for source in files("src", "rs") {
        let first = source.text.lines().next().unwrap_or_default();
        findings.check(first.starts_with("//! "), &source.path, 1, "start with a `//!` line: what this file is for");
        let lines = source.product_lines().len();
        let cure = format!("{lines} lines, {FILE_LINES} are allowed; split it by what it is about");
        findings.check(lines <= FILE_LINES, &source.path, lines, cure);
    }
    findings.report();
}

#[test]
fn functions_fit_on_a_screen() {
    let mut findings = Findings::default();
    for source in files("src", "rs").into_iter().chain(files("tests", "rs")) {
        let lines: Vec<(usize, &str)> = source.lines().collect();
        for (index, (number, line)) in lines.iter().enumerate() {
            let Some(indent) = function_indent(line) else { continue };
            // rustfmt closes a function in the column where it began.
            let closing = format!("{}}}", " ".repeat(indent));
            let is_end = |(_, line): &&(usize, &str)| *line == closing || (line.ends_with(';') && is_at(line, indent));
            let Some((end, _)) = lines[index..].iter().find(is_end) else { continue };
            let length = end - number + 1;
            let is_test = source.path.starts_with("tests") || source.path.ends_with("tests.rs");
            let allowed = if is_test { TEST_FUNCTION_LINES } else { FUNCTION_LINES };
            let cure = format!("a function of {length} lines, {allowed} are allowed; give its steps names");
            findings.check(length <= allowed, &source.path, *number, cure);
        }
    }
    findings.report();
}

/// The column of a line that begins a function with a body that does not end on it.
fn function_indent(line: &str) -> Option<usize> {
    let trimmed = line.trim_start();
    let words: Vec<&str> = trimmed.split_whitespace().collect();
    let qualifiers = ["pub", "pub(super)", "pub(crate)", "async", "const", "extern"];
    let name = words.iter().position(|word| !qualifiers.contains(word))?;
    let ending = code(line).trim_end();
    let begins = words[name] == "fn" && !ending.ends_with('}') && !ending.ends_with(';');
    begins.then(|| line.len() - trimmed.len())
}

fn is_at(line: &str, indent: usize) -> bool {
    line.len() - line.trim_start().len() == indent
}

#[test]
fn nothing_is_left_to_be_done_and_nothing_unwraps() {
    // Put together here, so that this file does not find itself.
    let unfinished =
        [["to", "do!"], ["unimpl", "emented!"], ["TO", "DO"], ["FIX", "ME"], ["XX", "X"]].map(|parts| parts.concat());
    let mut findings = Findings::default();
    for source in files("src", "rs").into_iter().chain(files("tests", "rs")).chain(files("sql", "sql")) {
        for (number, line) in source.lines() {
            let found = unfinished.iter().find(|word| line.contains(word.as_str()));
            findings.check(
                found.is_none(),
                &source.path,
                number,
                "finish it, or open an issue and say here what holds",
            );
            let width = line.chars().count();
            let cure = format!("{width} characters wide, {LINE_WIDTH} are allowed; break the line");
            findings.check(width <= LINE_WIDTH, &source.path, number, cure);
        }
    }
    for source in files("src", "rs") {
        for (number, line) in source.product_lines() {
            let cure = "return the error, or `expect` with the invariant that rules it out";
            findings.check(!code(line).contains(".unwrap()"), &source.path, number, cure);
        }
    }
    findings.report();
}

#[test]
fn every_sql_file_has_a_header_and_one_user() {
    let mut findings = Findings::default();
    let sources = files("src", "rs");
    for statement in files("sql", "sql") {
        let path = &statement.path;
        let header: String = statement.text.lines().take_while(|line| line.starts_with("--")).collect();
        let is_migration = path.starts_with("sql/migrations");
        // A migration is many statements; its header only says what it is for.
        let fields: &[&str] = if is_migration { &["--"] } else { &["Purpose:", "Caller:", "Locks:", "Index:"] };
        for field in fields {
            findings.check(header.contains(field), path, 1, format!("begin with a comment that has `{field}`"));
        }
        for (number, line) in (1..).zip(statement.text.lines()) {
            findings.check(line.is_ascii(), path, number, "write ASCII: other database encodings refuse it");
        }
        let included = format!("{}\")", path.display());
        let count =
            |source: &Source| source.text.matches(&included).filter(|_| source.text.contains("include_str!(")).count();
        let users: usize = sources.iter().map(count).sum();
        let cure = format!("named by {users} include_str! in src, not by 1; delete the file or share its one user");
        findings.check(users == 1, path, 1, cure);
    }
    findings.report();
}

/// See `queue::retention::replace`: a transaction that makes one and is rolled back can keep a server from starting.
#[test]
fn no_unlogged_table_is_made_while_walhook_runs() {
    let mut findings = Findings::default();
    for source in files("src", "rs").iter().chain(&files("sql", "sql")) {
        let runs = !source.path.starts_with("sql/migrations");
        let is_made = source.text.to_lowercase().contains("create unlogged");
        findings.check(!(runs && is_made), &source.path, 1, "make it a logged table");
    }
    findings.report();
}

#[test]
fn migrations_are_numbered_without_a_gap() {
    let mut findings = Findings::default();
    for (index, migration) in files("sql/migrations", "sql").iter().enumerate() {
        let number = format!("{:04}_", index + 1);
        let name = migration.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        findings.check(name.starts_with(&number), &migration.path, 1, format!("its name must begin with {number}"));
    }
    findings.report();
}

#[test]
fn the_package_forbids_unsafe_code_and_the_readme_names_the_commands() {
    let mut findings = Findings::default();
    let read = |name: &str| fs::read_to_string(package().join(name)).unwrap_or_default();
    let manifest = read("Cargo.toml");
    let forbidden = manifest.lines().any(|line| line.replace(' ', "").starts_with("unsafe_code=\"forbid\""));
    findings.check(forbidden, Path::new("Cargo.toml"), 1, "keep `unsafe_code = \"forbid\"` under [lints.rust]");
    let readme = read("README.md");
    if !readme.is_empty() {
        for command in ["make demo", "make test"] {
            let cure = format!("say `{command}`: it is how a reader starts");
            findings.check(readme.contains(command), Path::new("README.md"), 1, cure);
        }
    }
    findings.report();
}
