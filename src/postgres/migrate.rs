//! Brings schema `walhook` to this binary's version.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tracing::{info, warn};

use super::{Error, LOCK_NOT_AVAILABLE, Session};

/// Numbered from 1 by their place. Never change one that was released: add the next.
const MIGRATIONS: &[(&str, &str)] = &[
    ("0001_queue", include_str!("../../sql/migrations/0001_queue.sql")),
    ("0002_views", include_str!("../../sql/migrations/0002_views.sql")),
    ("0003_partial_rows", include_str!("../../sql/migrations/0003_partial_rows.sql")),
    ("0004_trigger_status", include_str!("../../sql/migrations/0004_trigger_status.sql")),
    ("0005_generated_columns", include_str!("../../sql/migrations/0005_generated_columns.sql")),
    ("0006_writers", include_str!("../../sql/migrations/0006_writers.sql")),
    ("0007_slot_status", include_str!("../../sql/migrations/0007_slot_status.sql")),
    ("0008_sources", include_str!("../../sql/migrations/0008_sources.sql")),
    ("0009_progress_after_gap", include_str!("../../sql/migrations/0009_progress_after_gap.sql")),
    ("0010_backfill", include_str!("../../sql/migrations/0010_backfill.sql")),
    ("0011_pause", include_str!("../../sql/migrations/0011_pause.sql")),
    ("0012_redelivery", include_str!("../../sql/migrations/0012_redelivery.sql")),
    ("0013_endpoints", include_str!("../../sql/migrations/0013_endpoints.sql")),
    ("0014_retention", include_str!("../../sql/migrations/0014_retention.sql")),
    ("0015_replay", include_str!("../../sql/migrations/0015_replay.sql")),
    ("0016_nodes", include_str!("../../sql/migrations/0016_nodes.sql")),
    ("0017_ordering", include_str!("../../sql/migrations/0017_ordering.sql")),
    ("0018_scheduled", include_str!("../../sql/migrations/0018_scheduled.sql")),
    ("0019_source_reader", include_str!("../../sql/migrations/0019_source_reader.sql")),
    ("0020_status_paused", include_str!("../../sql/migrations/0020_status_paused.sql")),
    ("0021_lowest_cursor", include_str!("../../sql/migrations/0021_lowest_cursor.sql")),
    ("0022_resumed", include_str!("../../sql/migrations/0022_resumed.sql")),
    ("0023_redeliver", include_str!("../../sql/migrations/0023_redeliver.sql")),
    ("0024_version_position", include_str!("../../sql/migrations/0024_version_position.sql")),
    ("0025_redeliver_replayed", include_str!("../../sql/migrations/0025_redeliver_replayed.sql")),
];

const BETWEEN_LOCK_TRIES: Duration = Duration::from_millis(200);
const LONGEST_SILENCE: Duration = Duration::from_secs(20);
/// Longer than a try may wait, so that those who were held up by one are through before the next.
const BETWEEN_MIGRATION_TRIES: Duration = Duration::from_secs(3);

/// Applies what is missing, each migration in a transaction of its own, all under one advisory lock so that nodes that
/// start together wait for each other. Returns how many were applied.
///
/// # Errors
/// [`Error::SchemaTooNew`] when a newer walhook was here, [`Error::SchemaChanged`] when an applied migration is not the
/// one this binary carries; otherwise what Postgres said.
pub async fn migrate(session: &mut Session) -> Result<usize, Error> {
    lock_setup(session).await?;
    let result = apply_missing(session).await;
    // Also after a failure: the session may live on.
    unlock_setup(session).await?;
    result
}

/// Keeps other nodes from setting the database up at the same time, and waits while one does that. The server ends
/// the session, and with it the lock, when nothing is asked of it for 20 s: its process is frozen, and no other one can
/// start.
///
/// # Errors
/// What Postgres said.
pub async fn lock_setup(session: &Session) -> Result<(), Error> {
    session.batch_execute(&format!("set idle_session_timeout = {}", LONGEST_SILENCE.as_millis())).await?;
    let mut told = false;
    loop {
        let row = session.query_one(include_str!("../../sql/setup_lock.sql"), &[]).await?;
        if row.get(0) {
            return Ok(());
        }
        // It may be free by now.
        if let (Some(pid), false) = (row.get::<_, Option<i32>>(1), told) {
            info!("waiting for the session of Postgres with pid {pid}, which sets walhook's schema or slot up");
            told = true;
        }
        tokio::time::sleep(BETWEEN_LOCK_TRIES).await;
    }
}

/// Lets the next node in.
///
/// # Errors
/// What Postgres said.
pub async fn unlock_setup(session: &Session) -> Result<(), Error> {
    session.batch_execute(include_str!("../../sql/setup_unlock.sql")).await?;
    Ok(session.batch_execute("set idle_session_timeout = 0").await?)
}

async fn apply_missing(session: &mut Session) -> Result<usize, Error> {
    session.batch_execute(include_str!("../../sql/migrate_prepare.sql")).await?;
    let applied = session.query(include_str!("../../sql/migrate_applied.sql"), &[]).await?;
    for row in &applied {
        let (version, checksum): (i32, String) = (row.get(0), row.get(1));
        let known = usize::try_from(version - 1).ok().and_then(|index| MIGRATIONS.get(index));
        match known {
            None => return Err(Error::SchemaTooNew { found: version, known: MIGRATIONS.len() as i32 }),
            Some((_, sql)) if checksum_of(sql) != checksum => return Err(Error::SchemaChanged { version }),
            Some(_) => {}
        }
    }
    for (index, (name, sql)) in MIGRATIONS.iter().enumerate().skip(applied.len()) {
        let mut told = false;
        while let Err(error) = apply(session, index as i32 + 1, name, sql).await {
            if error.sqlstate() != Some(LOCK_NOT_AVAILABLE) {
                return Err(error);
            }
            if !std::mem::replace(&mut told, true) {
                warn!("migration {name} waits for a lock that others hold, such as a dump; walhooks that run go on");
            }
            tokio::time::sleep(BETWEEN_MIGRATION_TRIES).await;
        }
    }
    Ok(MIGRATIONS.len() - applied.len())
}

async fn apply(session: &mut Session, version: i32, name: &str, sql: &str) -> Result<(), Error> {
    let transaction = session.transaction().await?;
    // Whoever waits for a table's lock holds up all that come behind, and a dump may last for hours.
    transaction.batch_execute("set local lock_timeout = '1s'").await?;
    transaction.batch_execute(sql).await?;
    let record = include_str!("../../sql/migrate_record.sql");
    transaction.execute(record, &[&version, &name, &checksum_of(sql)]).await?;
    Ok(transaction.commit().await?)
}

fn checksum_of(sql: &str) -> String {
    Sha256::digest(sql.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
