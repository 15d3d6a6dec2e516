//! What a Postgres error means for the one who got it.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use rustls::CertificateError;
use tokio_postgres::error::SqlState;

use super::PoolError;

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The connection or the server went away, or is busy: try again with backoff.
    Retry,
    /// Trying again cannot help: somebody must change a right, a setting or the data.
    Operator,
}

/// A database that walhook cannot work with until somebody acts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("database {database} is not ready for walhook:\n  - {}", problems.join("\n  - "))]
pub struct NotReady {
    /// Who connects, and where; never the password.
    pub database: String,
    /// All that is missing, each with the statement that mends it.
    pub problems: Vec<String>,
}

/// An error on the way to or from Postgres. Addresses are hosts and ports; a password is in none of these.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say what the fields are")]
pub enum Error {
    /// The connection string or a file that it names cannot be used.
    #[error("the database URL cannot be used: {0}")]
    Settings(String),
    /// No session in time.
    #[error(
        "no connection to Postgres at {address} within {seconds} s; check that it runs and that the address is right"
    )]
    ConnectTimeout { address: String, seconds: u64 },
    /// No socket, or it broke before the login.
    #[error("no connection to Postgres at {address}: {reason}")]
    Unreachable { address: String, reason: io::Error },
    /// TLS is not there, or the two sides do not trust each other.
    #[error("no TLS to Postgres at {address}: {reason}")]
    Tls { address: String, reason: String },
    /// The server does not let us in.
    #[error("no connection to Postgres at {address}: {}", describe(.reason))]
    Connect { address: String, reason: tokio_postgres::Error },
    /// One of several places is not the primary.
    #[error("Postgres at {address} is a standby")]
    Standby { address: String },
    /// None of several places gave a session.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Everywhere(Vec<Error>),
    /// The pool gave no session.
    #[error("no session from the pool: {0}")]
    Pool(String),
    /// Postgres refused, or the connection broke.
    #[error("{}", describe(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// Postgres refused something on a replication connection.
    #[error("{0}")]
    Server(ServerError),
    /// Both sides cannot agree on how the role proves who it is.
    #[error("Postgres at {address} lets nobody in this way: {reason}")]
    Authentication { address: String, reason: String },
    /// A replication connection ended.
    #[error("the replication connection ended: {0}")]
    Ended(String),
    /// A replication connection broke.
    #[error("the replication connection broke: {}", tls_problem(.0).map_or(.0.to_string(), advise))]
    Broken(io::Error),
    /// The server sent what the protocol does not allow here.
    #[error("the server broke the protocol: {0}; if it comes again, report it with the server's version")]
    Protocol(String),
    /// The schema was made by a newer walhook.
    #[error("schema walhook is at version {found}, this walhook knows up to {known}; start the newer walhook again")]
    SchemaTooNew { found: i32, known: i32 },
    /// A migration was changed after it had been applied.
    #[error(
        "migration {version} differs from the one that was applied to this database; use the walhook release that made \
         it"
    )]
    SchemaChanged { version: i32 },
}

/// What a server says on a replication connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// SQLSTATE.
    pub code: String,
    /// The primary message.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// What the server advises.
    pub hint: Option<String>,
}

impl fmt::Display for ServerError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} (SQLSTATE {})", self.message, self.code)?;
        [&self.detail, &self.hint].into_iter().flatten().try_for_each(|more| write!(out, ": {more}"))
    }
}

impl ServerError {
    /// Reads the body of an ErrorResponse: a letter and a text for each field.
    pub(super) fn read(body: &[u8]) -> ServerError {
        let mut error = ServerError::default();
        for field in body.split(|byte| *byte == 0) {
            let Some((kind, text)) = field.split_first() else { continue };
            let text = String::from_utf8_lossy(text).into_owned();
            match kind {
                b'C' => error.code = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                _ => {}
            }
        }
        error
    }
}

impl From<PoolError> for Error {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => error,
            other => Error::Pool(other.to_string()),
        }
    }
}

impl Error {
    /// Whether trying again can help.
    pub fn class(&self) -> Class {
        match self {
            Error::Settings(_) | Error::SchemaTooNew { .. } | Error::SchemaChanged { .. } => Class::Operator,
            Error::Tls { .. } | Error::Authentication { .. } => Class::Operator,
            Error::ConnectTimeout { .. } | Error::Unreachable { .. } | Error::Standby { .. } => Class::Retry,
            Error::Pool(_) | Error::Ended(_) | Error::Protocol(_) => Class::Retry,
            // As long as one place may come back, waiting is worth it.
            Error::Everywhere(errors) => {
                let all = errors.iter().all(|error| error.class() == Class::Operator);
                if all { Class::Operator } else { Class::Retry }
            }
            Error::Broken(error) if tls_problem(error).is_some() => Class::Operator,
            Error::Broken(_) => Class::Retry,
            Error::Server(error) => class_of(&error.code),
            Error::Connect { reason: error, .. } | Error::Postgres(error) => classify(error),
        }
    }

    /// The server's code, if it sent one.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Error::Server(error) => Some(&error.code),
            Error::Connect { reason: error, .. } | Error::Postgres(error) => sqlstate(error).map(SqlState::code),
            _ => None,
        }
    }

    /// A handshake that failed: either side's complaint about the other, or a connection that broke.
    pub(super) fn from_handshake(address: String, reason: io::Error) -> Error {
        match tls_problem(&reason) {
            Some(problem) => Error::Tls { address, reason: advise(problem) },
            None => Error::Unreachable { address, reason },
        }
    }
}

/// The complaint about TLS among an error's sources.
fn tls_problem<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // An io::Error's inner error is not its source.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = inner.map(|inner| inner as &(dyn StdError + 'static)).or_else(|| error.source());
    }
    None
}

fn advise(problem: &rustls::Error) -> String {
    let cure = match problem {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "; name the certificate of the authority that signed the server's with sslrootcert"
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => {
            "; connect by a name that the certificate holds as a subjectAltName (a common name does not count), or use \
             sslmode=verify-ca"
        }
        rustls::Error::AlertReceived(_) => "; the server may ask for a certificate of ours: see sslcert and sslkey",
        _ => "",
    };
    format!("{problem}{cure}")
}

/// SQLSTATE of a statement that waited for a lock for as long as `lock_timeout` allows, or was not to wait.
pub const LOCK_NOT_AVAILABLE: &str = "55P03";

/// The error's code, if the server sent one.
pub fn sqlstate(error: &tokio_postgres::Error) -> Option<&SqlState> {
    error.as_db_error().map(tokio_postgres::error::DbError::code)
}

/// By what the server said. What is not known to be permanent is tried again.
pub fn classify(error: &tokio_postgres::Error) -> Class {
    match sqlstate(error) {
        Some(state) => class_of(state.code()),
        None if tls_problem(error).is_some() || is_login_problem(error) => Class::Operator,
        None => Class::Retry,
    }
}

/// A missing password, or a way to log in that was not agreed upon. The driver tells its kinds apart in its texts only.
fn is_login_problem(error: &tokio_postgres::Error) -> bool {
    ["authentication error", "invalid configuration"].iter().any(|kind| error.to_string().starts_with(kind))
}

/// By SQLSTATE class (PostgreSQL manual, appendix A).
fn class_of(code: &str) -> Class {
    match code.get(..2) {
        // A row without a partition: it was dropped while its writer took it to be there, and is made anew.
        _ if code == "23514" => Class::Retry,
        // Authorization, catalogue name, feature, object state and syntax errors stay as they are until somebody acts.
        Some("28" | "3D" | "0A" | "42" | "22" | "23") => Class::Operator,
        _ => Class::Retry,
    }
}

/// The server's own words with its code, or what happened to the connection.
fn describe(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), StdError::source(error)) {
        (Some(server), _) => format!("{} (SQLSTATE {})", server.message(), server.code().code()),
        (None, Some(source)) => match tls_problem(error) {
            Some(problem) => format!("{error}: {}", advise(problem)),
            None => format!("{error}: {source}"),
        },
        (None, None) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_errors_keep_detail_and_hint_and_are_told_apart_by_their_code() {
        let body = b"SERROR\0VERROR\0C55000\0Mcannot read\0Dit is lost\0Hmake another\0Fslot.c\0\0";
        let error = ServerError::read(body);
        assert_eq!(error.to_string(), "cannot read (SQLSTATE 55000): it is lost: make another");
        for (code, class) in [
            ("55006", Class::Retry),
            ("57P01", Class::Retry),
            ("53300", Class::Retry),
            ("42501", Class::Operator),
            ("23505", Class::Operator),
            ("23514", Class::Retry),
            ("28P01", Class::Operator),
            ("", Class::Retry),
        ] {
            let error = Error::Server(ServerError { code: code.into(), ..ServerError::default() });
            assert_eq!(error.class(), class, "{code}");
        }
    }
}
