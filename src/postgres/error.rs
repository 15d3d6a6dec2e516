//! What a Postgres error means for the one who got it.

use tokio_postgres::error::SqlState;

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The connection or the server went away, or is busy: try again with backoff.
    Retry,
    /// Trying again cannot help: somebody must change a right, a setting or the data.
    Operator,
}

/// An error on the way to or from Postgres.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection string cannot be used.
    #[error("the database URL cannot be used: {0}")]
    Settings(String),
    /// No connection was made in time.
    #[error(
        "no connection to Postgres at {address} within {seconds} s; check that it runs and that the address is right"
    )]
    ConnectTimeout {
        /// Host and port, never the password.
        address: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The server cannot be reached, or does not let us in.
    #[error("no connection to Postgres at {address}: {}", describe(.reason))]
    Connect {
        /// Host and port, never the password.
        address: String,
        /// What was said.
        reason: tokio_postgres::Error,
    },
    /// The pool gave no session.
    #[error("no session from the pool: {0}")]
    Pool(#[from] deadpool_postgres::PoolError),
    /// Postgres refused, or the connection broke.
    #[error("{}", describe(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// The schema was made by a newer walhook.
    #[error("schema walhook is at version {found}, this walhook knows up to {known}; start the newer walhook again")]
    SchemaTooNew {
        /// Version found in the database.
        found: i32,
        /// Latest version this binary carries.
        known: i32,
    },
    /// A migration was changed after it had been applied.
    #[error(
        "migration {version} differs from the one that was applied to this database; use the walhook release that made \
         it"
    )]
    SchemaChanged {
        /// The migration's number.
        version: i32,
    },
}

impl Error {
    /// Whether trying again can help.
    pub fn class(&self) -> Class {
        match self {
            Error::Settings(_) | Error::SchemaTooNew { .. } | Error::SchemaChanged { .. } => Class::Operator,
            Error::ConnectTimeout { .. } => Class::Retry,
            Error::Pool(deadpool_postgres::PoolError::Backend(error)) => classify(error),
            Error::Pool(_) => Class::Retry,
            Error::Connect { reason: error, .. } | Error::Postgres(error) => classify(error),
        }
    }
}

/// The error's code, if the server sent one.
pub fn sqlstate(error: &tokio_postgres::Error) -> Option<&SqlState> {
    error.as_db_error().map(tokio_postgres::error::DbError::code)
}

/// By SQLSTATE class (PostgreSQL manual, appendix A). What is not known to be permanent is tried again.
pub fn classify(error: &tokio_postgres::Error) -> Class {
    let Some(state) = sqlstate(error) else { return Class::Retry };
    match state.code().get(..2) {
        // Authorization, catalogue name, feature, object state and syntax errors stay as they are until somebody acts.
        Some("28" | "3D" | "0A" | "42" | "22" | "23") => Class::Operator,
        _ => Class::Retry,
    }
}

/// The server's own words with its code, or what happened to the connection.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(server) => format!("{} (SQLSTATE {})", server.message(), server.code().code()),
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}
