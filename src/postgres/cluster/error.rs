//! Why there is no throwaway cluster.

use std::path::PathBuf;

use super::binaries::BIN_VARIABLE;

/// An error on the way to a running cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server programs on this machine.
    #[error(
        "no Postgres server (version 14 or later) on this machine; install it with `apt-get install postgresql` or \
         `brew install postgresql@16`, or name its bin directory in {BIN_VARIABLE}"
    )]
    BinariesMissing,
    /// The directory that the environment names does not do.
    #[error(
        "{BIN_VARIABLE}={} does not hold initdb, postgres and pg_ctl of version 14 or later; name a server's bin \
         directory or unset the variable", directory.display()
    )]
    BinariesUnusable {
        /// As given.
        directory: PathBuf,
    },
    /// Postgres refuses to run as root and there is nobody else.
    #[error("Postgres does not run as root, and this machine has neither a user `postgres` nor `nobody`; add one")]
    NoUnprivilegedUser,
    /// A file or a process could not be made.
    #[error("{doing} failed: {source}; check that TMPDIR is writable and not full")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A server program ended with an error.
    #[error(
        "{program} failed; its last words:\n{output}\n(where it may not enter the temporary directory, set TMPDIR to \
         one that every user may enter, such as /tmp)"
    )]
    Program {
        /// Its name.
        program: &'static str,
        /// The end of what it printed.
        output: String,
    },
    /// The server ended, or did not answer in time.
    #[error("Postgres did not become ready within {seconds} s ({reason}); the end of its log:\n{log}")]
    NotReady {
        /// How long was waited.
        seconds: u64,
        /// What the last try gave.
        reason: String,
        /// Its last lines.
        log: String,
    },
    /// The server did not end in time.
    #[error(
        "Postgres did not stop within {seconds} s; end the sessions that hold it up, or stop it with Mode::Immediate"
    )]
    NotStopped {
        /// How long was waited.
        seconds: u64,
    },
}

impl Error {
    pub(super) fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Io { doing, source }
    }
}
