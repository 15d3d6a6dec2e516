//! Is a database ready for the queue? Everything missing is listed at once, with the statements that mend it.

use super::Error;
use super::encoding::knows_all_characters;
use crate::postgres::{self, NotReady, Settings};

/// The oldest version that is tested.
const OLDEST_VERSION: i32 = 140_000;

/// Checks a database. Nothing is changed.
///
/// # Errors
/// [`Error::NotReady`] with every problem; otherwise what Postgres said.
pub async fn check(settings: &Settings) -> Result<(), Error> {
    let client = postgres::connect(settings, "walhook setup").await?;
    let row = client.query_one(include_str!("../../sql/queue_preflight.sql"), &[]).await?;
    let quoted = |name: &str| postgres_protocol::escape::escape_identifier(row.get(name));
    let (database, role) = (quoted("database"), quoted("role"));
    let mut problems = Vec::new();
    if row.get::<_, i32>("version") < OLDEST_VERSION {
        let found: &str = row.get("version_text");
        problems.push(format!("Postgres {found} is too old: walhook needs 14 or later"));
    }
    if row.get("in_recovery") {
        problems.push("this server is a standby: connect walhook to the primary".to_owned());
    }
    let encoding: &str = row.get("encoding");
    if !knows_all_characters(encoding) {
        problems.push(format!(
            "database {database} has encoding {encoding}, and its sources may have characters that it has not: make it \
             with  CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0;"
        ));
    }
    if !row.get::<_, bool>("may_create") {
        problems.push(format!(
            "role {role} may not create schema walhook: run  GRANT CREATE ON DATABASE {database} TO {role};"
        ));
    }
    if !row.get::<_, bool>("may_use_schema") {
        problems.push(format!(
            "role {role} may not use schema walhook: run  GRANT USAGE, CREATE ON SCHEMA walhook TO {role};"
        ));
    }
    if problems.is_empty() { Ok(()) } else { Err(NotReady { database: format!("{settings:?}"), problems }.into()) }
}
