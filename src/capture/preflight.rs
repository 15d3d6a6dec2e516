//! Is the database ready? Everything missing is listed at once, with the statements that mend it.

use std::time::Duration;

use tokio_postgres::{GenericClient, Row};

use super::{Error, Options};
use crate::postgres::{self, NotReady};

/// What was learnt of the server on the way.
#[derive(Clone, Debug)]
pub struct Facts {
    /// As `server_version` shows it.
    pub version: String,
    /// The cluster's identifier, in decimal.
    pub system_identifier: String,
    /// The timeline that it writes.
    pub timeline: i32,
    /// `wal_sender_timeout`; zero means never.
    pub sender_timeout: Duration,
}

/// Logical messages in pgoutput came with this version.
const OLDEST_VERSION: i32 = 140_000;
/// Slots follow to standbys from this version on.
const FAILOVER_VERSION: i32 = 170_000;

/// Checks a database. Nothing is changed.
///
/// # Errors
/// [`Error::NotReady`] with every problem; otherwise what Postgres said.
pub async fn check(client: &impl GenericClient, options: &Options) -> Result<Facts, Error> {
    let slot = &options.slot;
    let row =
        client.query_one(include_str!("../../sql/preflight.sql"), &[&slot]).await.map_err(postgres::Error::from)?;
    let (database, role): (String, String) = (row.get("database"), row.get("role"));
    let (database, role) = (quote(&database), quote(&role));
    let mut problems = Vec::new();
    let mut problem = |text: String| problems.push(text);

    if !is_slot_name(slot) {
        problem(format!("slot name {slot:?}: use at most 63 lower-case letters, digits and underscores"));
    }
    version_problem(&row, options).into_iter().for_each(&mut problem);
    if row.get("in_recovery") {
        problem("this server is a standby: connect walhook to the primary".into());
    }
    let wal_level: String = row.get("wal_level");
    if wal_level != "logical" {
        problem(format!(
            "wal_level is {wal_level}: run  ALTER SYSTEM SET wal_level = 'logical';  and restart Postgres"
        ));
    }
    standby_problem(&row).into_iter().for_each(&mut problem);
    let at_amazon: Option<bool> = row.get("may_replicate_at_amazon");
    if !row.get::<_, Option<bool>>("may_replicate").unwrap_or(false) && at_amazon != Some(true) {
        let cure = match at_amazon {
            Some(_) => format!("GRANT rds_replication TO {role};"),
            None => format!("ALTER ROLE {role} REPLICATION;"),
        };
        problem(format!("role {role} may not replicate: run  {cure}"));
    }
    if !row.get::<_, bool>("may_create") {
        problem(format!(
            "role {role} may not create schema walhook and a publication: run  \
             GRANT CREATE ON DATABASE {database} TO {role};"
        ));
    }
    if !row.get::<_, bool>("may_use_schema") {
        problem(format!(
            "role {role} may not use schema walhook: run  GRANT USAGE, CREATE ON SCHEMA walhook TO {role};"
        ));
    }
    let (slots, max_slots): (i64, i64) = (row.get("slots"), row.get("max_slots"));
    if !row.get::<_, bool>("has_slot") && slots >= max_slots {
        problem(format!(
            "all {max_slots} replication slots are taken: run  ALTER SYSTEM SET max_replication_slots = {};  \
             and restart Postgres, or drop one that nobody uses (see pg_replication_slots)",
            max_slots + 4
        ));
    }
    let (senders, max_senders): (i64, i64) = (row.get("senders"), row.get("max_senders"));
    if senders >= max_senders && !row.get::<_, bool>("has_slot") {
        problem(format!(
            "all {max_senders} WAL senders are taken: run  ALTER SYSTEM SET max_wal_senders = {};  \
             and restart Postgres",
            max_senders + 4
        ));
    }
    if !problems.is_empty() {
        return Err(NotReady { database: format!("{:?}", options.database), problems }.into());
    }
    Ok(Facts {
        version: row.get("version_text"),
        // A server in recovery or without logical WAL was refused.
        system_identifier: row.get::<_, Option<String>>("system_identifier").unwrap_or_default(),
        timeline: row.get::<_, Option<i32>>("timeline").unwrap_or_default(),
        sender_timeout: Duration::from_millis(row.get::<_, i64>("sender_timeout_millis").unsigned_abs()),
    })
}

fn version_problem(row: &Row, options: &Options) -> Option<String> {
    let (version, found): (i32, String) = (row.get("version"), row.get("version_text"));
    match version {
        ..OLDEST_VERSION => Some(format!("Postgres {found} is too old: walhook needs 14 or later")),
        ..FAILOVER_VERSION if options.failover => {
            Some(format!("Postgres {found} cannot have slots follow to standbys, 17 can: leave --slot-failover out"))
        }
        _ => None,
    }
}

/// Where any stream may be a synchronous standby, Postgres waits for ours before it lets our own commits go.
fn standby_problem(row: &Row) -> Option<String> {
    let names: String = row.get("standby_names");
    names.contains('*').then(|| {
        format!(
            "synchronous_standby_names is '{names}', so commits may wait for walhook's stream as for a standby, and \
             walhook waits for its own: name the standbys, run  \
             ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (replica)'; SELECT pg_reload_conf();"
        )
    })
}

/// The names that Postgres allows.
fn is_slot_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn quote(identifier: &str) -> String {
    postgres_protocol::escape::escape_identifier(identifier)
}

#[cfg(test)]
mod tests {
    use super::is_slot_name;

    #[test]
    fn slot_names_are_those_that_postgres_allows() {
        assert!(is_slot_name("walhook_default"));
        for name in ["", "Walhook", "a b", "a\"b", "ö", &"a".repeat(64)] {
            assert!(!is_slot_name(name), "{name:?} was accepted");
        }
    }
}
