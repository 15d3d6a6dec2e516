//! Where Postgres' server programs are on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Error;

/// Names a directory with `initdb`, `postgres` and `pg_ctl`; then nothing else is looked at.
pub const BIN_VARIABLE: &str = "WALHOOK_POSTGRES_BIN";

/// Older servers lack what walhook needs of `pgoutput`.
const OLDEST_MAJOR: u32 = 14;

const NEEDED: [&str; 3] = ["initdb", "postgres", "pg_ctl"];

/// A directory with the server's programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binaries {
    pub directory: PathBuf,
    /// As the server prints it, such as `15.8`.
    pub version: String,
    pub major: u32,
}

impl Binaries {
    /// Looks where [`BIN_VARIABLE`] says, else at the `pg_config` on the path, then where distributions put the server.
    pub fn find() -> Result<Binaries, Error> {
        if let Some(directory) = std::env::var_os(BIN_VARIABLE).filter(|value| !value.is_empty()) {
            let directory = PathBuf::from(directory);
            return Binaries::at(&directory).ok_or(Error::BinariesUnusable { directory });
        }
        candidates().iter().find_map(|directory| Binaries::at(directory)).ok_or(Error::BinariesMissing)
    }

    /// One of the programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// What is in the directory, if it is all there and new enough.
    fn at(directory: &Path) -> Option<Binaries> {
        if !NEEDED.iter().all(|name| directory.join(name).is_file()) {
            return None;
        }
        let printed = output_of(Command::new(directory.join("postgres")).arg("--version"))?;
        let version = version_in(&printed)?;
        let major = major_of(&version)?;
        (major >= OLDEST_MAJOR).then(|| Binaries { directory: directory.to_owned(), version, major })
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut found = Vec::new();
    found.extend(output_of(Command::new("pg_config").arg("--bindir")).map(|line| PathBuf::from(line.trim())));
    found.extend(newest_first("/usr/lib/postgresql", ""));
    found.extend(newest_first("/opt/homebrew/opt", "postgresql"));
    found.extend(newest_first("/usr/local/opt", "postgresql"));
    // Fedora and its relatives, and builds from source.
    found.extend(["/usr/bin", "/usr/local/pgsql/bin"].map(PathBuf::from));
    found
}

/// The `bin` directories of a parent's children that start with `prefix` and end in a version, highest version first.
fn newest_first(parent: &str, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix(prefix)?.trim_start_matches('@');
            // Homebrew's unversioned `postgresql` is an alias of some version; it comes last.
            Some((version.parse().unwrap_or(0), entry.path().join("bin")))
        })
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, directory)| directory).collect()
}

fn output_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `postgres (PostgreSQL) 15.8 (Debian …)` gives `15.8`.
fn version_in(printed: &str) -> Option<String> {
    let after = printed.split_once("(PostgreSQL)")?.1;
    after.split_whitespace().next().map(str::to_owned)
}

/// `15.8` and `18beta1` give 15 and 18.
fn major_of(version: &str) -> Option<u32> {
    let end = version.find(|character: char| !character.is_ascii_digit()).unwrap_or(version.len());
    version[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_server_prints() {
        let printed = "postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)\n";
        assert_eq!(version_in(printed).as_deref(), Some("15.8"));
        assert_eq!(major_of("15.8"), Some(15));
        assert_eq!(major_of("18beta1"), Some(18));
        assert_eq!(version_in("something else"), None);
    }

    #[test]
    fn the_highest_version_comes_first() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        for name in ["postgresql@9", "postgresql@16", "postgresql", "postgresql@14", "other"] {
            std::fs::create_dir(parent.path().join(name)).expect("a directory");
        }
        let found = newest_first(&parent.path().display().to_string(), "postgresql");
        let names: Vec<_> = found
            .iter()
            .map(|path| path.parent().and_then(Path::file_name).expect("a name").to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["postgresql@16", "postgresql@14", "postgresql@9", "postgresql"]);
    }
}
