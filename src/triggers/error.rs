//! What can be wrong with a request to the catalogue. The messages are Hasura's own where it has one
//! (reference/hasura.md, 1.9); the others name what to do.

use crate::model::{Subject, TableName, TemplateError};
use crate::postgres::{self, Class, LOCK_NOT_AVAILABLE};
use crate::queue;

/// Why the catalogue did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No source of that name is configured.
    #[error("source with name \"{0}\" does not exist")]
    UnknownSource(String),
    /// The source was never captured, so its database or the queue does not know it.
    #[error("source \"{0}\" is not set up yet; walhook's log and view walhook.source_status say what keeps it from it")]
    NotSetUp(String),
    /// There is no such table.
    #[error("table \"{table}\" does not exist in source: {origin}")]
    UnknownTable {
        /// The table that was asked for.
        table: TableName,
        /// The source's name.
        origin: String,
    },
    /// A `columns` list names a column the table does not have.
    #[error("column \"{0}\" does not exist")]
    UnknownColumn(String),
    /// There is no live trigger of this name.
    #[error("event trigger \"{0}\" does not exist")]
    UnknownTrigger(String),
    /// A live trigger has this name, and `replace` was not asked for.
    #[error("Event trigger with name \"{0}\" already exists")]
    Duplicate(String),
    /// A replacement may not move a trigger to another table.
    #[error("cannot replace table or schema for trigger")]
    OtherTable,
    /// The trigger was made without `enable_manual`.
    #[error("manual mode is not enabled for event trigger")]
    ManualDisabled,
    /// No event of this source has this id.
    #[error("event not found")]
    EventNotFound,
    /// A request for the event is under way.
    #[error("event is already being processed")]
    EventBusy,
    /// Nothing is to be skipped.
    #[error("event is neither held nor does it wait for a retry, so there is nothing to skip")]
    EventNotHeld,
    /// The rows of the trigger's table cannot be sent.
    #[error("event trigger \"{trigger}\" cannot be backfilled: {reason}")]
    NoBackfill {
        /// Its name.
        trigger: String,
        /// Why.
        reason: String,
    },
    /// Not a condition on a row of the table.
    #[error(
        "the condition is not one that Postgres takes for a row of the table: {0}; functions and operators that are \
         not Postgres' own need their schema"
    )]
    Condition(String),
    /// A time or a position that Postgres cannot read.
    #[error("{0}; give a time like 2026-11-21 14:00:00+00 and an LSN like 0/1A2B3C8")]
    Range(String),
    /// There is no backfill of this id, or it is over.
    #[error("no backfill with id \"{0}\" is waiting or running")]
    UnknownBackfill(String),
    /// There is no replay of this id, or it is over.
    #[error("no replay with id \"{0}\" is running")]
    UnknownReplay(String),
    /// The definition is well formed but cannot work in this database or environment.
    #[error("Inconsistent object: in {subject}: in event trigger \"{trigger}\": {reason}")]
    Inconsistent {
        /// What was to be watched.
        subject: Subject,
        /// The trigger's name.
        trigger: String,
        /// What is wrong with it.
        reason: Box<Inconsistency>,
    },
    /// walhook's own table was taken out of the publication, perhaps by `SET TABLE`. The name is quoted.
    #[error(
        "publication {0} lacks walhook's catalogue, so capture would not hear of this: run  \
         ALTER PUBLICATION {0} ADD TABLE walhook.trigger_version;"
    )]
    Unpublished(String),
    /// Other sessions held a lock for as long as was waited. The message names the table or type, never the sessions'
    /// queries.
    #[error(
        "{subject} was in use by other sessions for {seconds} s; try again when no long transaction uses it \
         (see pg_stat_activity)"
    )]
    Locked {
        /// What was to be watched.
        subject: Subject,
        /// How long was waited.
        seconds: u64,
    },
    /// Another session holds a row that this needs, for longer than a session of the pool waits.
    #[error(
        "another session holds what this is about in a transaction that is open still; try again when that has ended \
         (see pg_stat_activity)"
    )]
    InUse(#[source] postgres::Error),
    /// A stored definition cannot be read back.
    #[error("a definition in walhook.trigger cannot be read; it was made by a newer walhook: start that release again")]
    Definition(#[from] serde_json::Error),
    /// What Postgres said.
    #[error(transparent)]
    Database(postgres::Error),
    /// The queue's copy of the catalogue cannot be used.
    #[error(transparent)]
    Queue(queue::Error),
}

impl Error {
    /// Whether asking again can help.
    pub fn class(&self) -> Class {
        match self {
            Error::Locked { .. } | Error::InUse(_) => Class::Retry,
            Error::Database(error) => error.class(),
            Error::Queue(error) => error.class(),
            _ => Class::Operator,
        }
    }
}

impl From<postgres::Error> for Error {
    fn from(error: postgres::Error) -> Self {
        match error.sqlstate() {
            Some(LOCK_NOT_AVAILABLE) => Error::InUse(error),
            _ => Error::Database(error),
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        postgres::Error::from(error).into()
    }
}

impl From<queue::Error> for Error {
    fn from(error: queue::Error) -> Self {
        match error {
            queue::Error::Postgres(error) => error.into(),
            other => Error::Queue(other),
        }
    }
}

impl From<postgres::PoolError> for Error {
    fn from(error: postgres::PoolError) -> Self {
        Error::Database(error.into())
    }
}

impl Error {
    /// What Postgres said of times and positions that a caller gave.
    pub(super) fn of_range(error: tokio_postgres::Error) -> Self {
        let given = ["22007", "22008", "22009", "22021", "22P02"];
        match error.as_db_error() {
            Some(said) if given.contains(&said.code().code()) => Error::Range(said.message().to_owned()),
            _ => error.into(),
        }
    }

    /// The SQLSTATE, when Postgres sent this error.
    pub(super) fn sqlstate(&self) -> Option<&str> {
        match self {
            Error::Database(error) | Error::InUse(error) => error.sqlstate(),
            _ => None,
        }
    }
}

/// Gives a new partition its identity in the transaction that makes it.
const NEW_PARTITIONS: &str = "CREATE EVENT TRIGGER walhook_keep_identity ON ddl_command_end \
                              WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE') EXECUTE FUNCTION walhook.keep_identity();";

/// Why a well-formed definition cannot work.
#[derive(Debug, thiserror::Error)]
pub enum Inconsistency {
    /// A variable is not set, or may not be used.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The URL, after its placeholders were resolved. It may hold secrets, so it is not printed.
    #[error("the webhook is not a usable URL: {0}; give one like https://host:port/path")]
    Webhook(&'static str),
    /// A header's name cannot be sent.
    #[error("header name {0:?} cannot be sent; use letters, digits and hyphens")]
    HeaderName(String),
    /// A header's value cannot be sent. It may be a secret, so it is not printed.
    #[error("the value of header {0:?} cannot be sent: it holds control characters; remove them (a line end?)")]
    HeaderValue(String),
    /// A `payload` list names a column the table does not have.
    #[error("column \"{0}\" of a payload list does not exist; name columns of the table, or \"*\"")]
    PayloadColumn(String),
    /// A generated column that is not in the WAL.
    #[error(
        "column \"{0}\" is generated, and Postgres does not publish it (stored ones from version 18 on); name the \
         columns that it is made from"
    )]
    HiddenColumn(String),
    /// No identity would let the application's writes work.
    #[error(
        "{0} has generated columns that Postgres does not publish; with REPLICA IDENTITY FULL every UPDATE and DELETE \
         of the application would fail, and it has no primary key to do without; give it a primary key"
    )]
    HiddenColumns(String),
    /// The WAL holds no row changes of such a table, or must not be watched.
    #[error(transparent)]
    Unwatchable(#[from] Unwatchable),
    /// The publication cannot carry this trigger's changes.
    #[error("publication \"{publication}\" {reason}; run: {statement}")]
    Publication {
        /// Its name.
        publication: String,
        /// What it lacks.
        reason: String,
        /// What mends it.
        statement: String,
    },
    /// The publication is not there.
    #[error("publication \"{0}\" does not exist; start `walhook serve`, which makes it")]
    NoPublication(String),
    /// Publishing the table would make the application's UPDATE and DELETE fail.
    #[error(
        "it has no usable replica identity, so publishing it would make every UPDATE and DELETE of the application \
         fail, and walhook was told to keep identities; run: {}", .statements.join(" ")
    )]
    NoIdentity {
        /// What mends it, complete statements.
        statements: Vec<String>,
    },
    /// Partitions that are made later would have no identity.
    #[error(
        "it is partitioned and has no primary key, so a partition that is made or attached later has no replica \
         identity, and every UPDATE and DELETE of the application on it would fail; give the table a primary key, or \
         let a superuser run: {}",
        NEW_PARTITIONS
    )]
    UnsafePartitions,
    /// The role of walhook may not change the table or the publication.
    #[error(
        "the role of walhook may not do what is needed ({message}); let the owner of the table and of the publication \
         run this, then try again: {}", .statements.join(" ")
    )]
    MissingRights {
        /// Postgres' own words.
        message: String,
        /// What is needed, complete statements in order.
        statements: Vec<String>,
    },
}

impl Inconsistency {
    /// The statements that mend it, where there are some.
    pub fn statements(&self) -> Vec<String> {
        match self {
            Inconsistency::Publication { statement, .. } => vec![statement.clone()],
            Inconsistency::UnsafePartitions => vec![NEW_PARTITIONS.to_owned()],
            Inconsistency::NoIdentity { statements } | Inconsistency::MissingRights { statements, .. } => {
                statements.clone()
            }
            _ => Vec::new(),
        }
    }
}

/// Why a table cannot be watched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwatchable {
    /// A view or a materialized view.
    #[error("it is a view, and views write no row changes to the WAL; watch the tables under it")]
    View,
    /// A foreign table, or a partition that is one.
    #[error("{0} is a foreign table: its rows change in another database; watch it there")]
    Foreign(String),
    /// A temporary table.
    #[error("it is a temporary table, which is not in the WAL; use a permanent one")]
    Temporary,
    /// An unlogged table, or a partition that is one.
    #[error("{0} is unlogged, so it is not in the WAL; run: ALTER TABLE {0} SET LOGGED;")]
    Unlogged(String),
    /// A table of Postgres itself.
    #[error("it is a table of Postgres itself, which logical replication leaves out; watch a table of your own")]
    System,
    /// A table of walhook.
    #[error("it belongs to walhook, whose own tables never make events; watch a table of your own")]
    Own,
    /// A partition; its changes are published under the root's name.
    #[error("it is a partition, and its changes appear as those of {0}; make the trigger on that table")]
    Partition(String),
}
