//! What keeps the slot well beside the stream: heartbeats, a look at the WAL it retains, and the end of the session
//! that a server which shuts down ends first.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_postgres::types::PgLsn;
use tracing::{info, warn};

use super::figures::Figures;
use super::session::{TICK_TIMEOUT, ended, within};
use super::{Error, Options};
use crate::model::Lsn;
use crate::postgres::{self, Class, Session};
use crate::queue::{self, SlotStatus};

const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Where nothing changed the status is written no more often than this: each row is WAL as well.
const WRITE_EVERY: Duration = Duration::from_secs(60);
/// So much of `max_slot_wal_keep_size` may be used, in percent.
const WELL_BELOW: i64 = 80;
const MEBIBYTE: i64 = 1024 * 1024;
/// The session may not write.
const READ_ONLY: &str = "25006";

/// As `pg_replication_slots` has it.
const LOST: &str = "lost";

/// Watches over a source's slot as long as its stream runs.
pub(super) struct Keeper<'a> {
    session: Session,
    options: &'a Options,
    timeline: i32,
    source_id: i16,
    figures: &'a watch::Sender<Figures>,
    /// What was written last, and when.
    written: Option<(SlotStatus, Instant)>,
    /// Whether a warning was said that is not over.
    warned: bool,
    /// Whether the last write failed, which was said.
    unwritten: bool,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(
        session: Session,
        options: &'a Options,
        timeline: i32,
        source_id: i16,
        figures: &'a watch::Sender<Figures>,
    ) -> Self {
        Keeper { session, options, timeline, source_id, figures, written: None, warned: false, unwritten: false }
    }

    /// Goes on until the session ends or the slot is lost.
    pub(super) async fn keep(mut self) -> Error {
        match self.watch().await {
            Ok(()) => ended("the server closed our session; it may be shutting down"),
            Err(error) => error,
        }
    }

    async fn watch(&mut self) -> Result<(), Error> {
        let mut look = interval(LOOK_EVERY);
        let mut beats = self.options.heartbeat.is_some();
        let mut beat = interval(self.options.heartbeat.unwrap_or(LOOK_EVERY));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.session.closed() => return Ok(()),
                _ = beat.tick(), if beats => beats = within(TICK_TIMEOUT, self.beat()).await?,
                _ = look.tick() => {
                    let Some(status) = within(TICK_TIMEOUT, self.look()).await? else { continue };
                    // A stream that waits for a stalled append would hear of it late.
                    let lost = status.wal_status.as_deref() == Some(LOST);
                    self.tell(status.warning.as_deref());
                    self.figures.send_modify(|figures| figures.slot = Some(status.clone()));
                    let written = within(TICK_TIMEOUT, self.note(status)).await;
                    self.tell_of_write(written);
                    if lost {
                        return Err(ended("the server invalidated the slot"));
                    }
                }
            }
        }
    }

    async fn note(&mut self, status: SlotStatus) -> Result<(), queue::Error> {
        let is_news = self.written.as_ref().is_none_or(|(before, written_at)| {
            before.wal_status != status.wal_status
                || before.warning.is_some() != status.warning.is_some()
                || written_at.elapsed() >= WRITE_EVERY
        });
        if is_news {
            // Too seldom for a session that is kept.
            let queue = postgres::connect(&self.options.queue, "walhook status").await?;
            queue::write_slot_status(&*queue, self.source_id, &status).await?;
            self.written = Some((status, Instant::now()));
        }
        Ok(())
    }

    /// False where the server does not let us, which costs little: the server's own positions mostly do as well.
    async fn beat(&self) -> Result<bool, postgres::Error> {
        let sent = self.session.execute(include_str!("../../sql/heartbeat.sql"), &[]).await;
        match sent.map_err(postgres::Error::from) {
            Ok(_) => Ok(true),
            Err(error) if error.class() == Class::Operator || error.sqlstate() == Some(READ_ONLY) => {
                warn!(
                    source = self.options.source,
                    "no heartbeats, the slot may keep more WAL than it needs: {error}; let this role run \
                     pg_logical_emit_message, or set --heartbeat off"
                );
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// `None` where the slot is gone, of which the stream will hear.
    async fn look(&self) -> Result<Option<SlotStatus>, Error> {
        let row = self.session.query_opt(include_str!("../../sql/slot_health.sql"), &[&self.options.slot]).await?;
        Ok(row.map(|row| {
            let wal_status: Option<String> = row.get(0);
            let (retained, limit, lag): (Option<i64>, Option<i64>, Option<i64>) = (row.get(2), row.get(3), row.get(4));
            SlotStatus {
                timeline: self.timeline,
                confirmed: row.get::<_, Option<PgLsn>>(1).map(|lsn| Lsn(lsn.into())),
                warning: warning(wal_status.as_deref(), retained, limit),
                wal_status,
                lag,
                retained,
                limit,
            }
        }))
    }

    /// Once when it begins and once when it is over.
    fn tell(&mut self, warning: Option<&str>) {
        let (source, slot) = (&self.options.source, &self.options.slot);
        match (std::mem::replace(&mut self.warned, warning.is_some()), warning) {
            (false, Some(warning)) => warn!(source, slot, "{warning}"),
            (true, None) => info!(source, slot, "the slot keeps little WAL again, for what it may keep"),
            _ => {}
        }
    }

    /// Once when the queue cannot take the status; it is tried again at each look.
    fn tell_of_write(&mut self, written: Result<(), Error>) {
        let source = &self.options.source;
        match (std::mem::replace(&mut self.unwritten, written.is_err()), written) {
            (false, Err(error)) => warn!(source, "walhook.source_status is not up to date, trying again: {error}"),
            (true, Ok(())) => info!(source, "walhook.source_status is up to date again"),
            _ => {}
        }
    }
}

/// What to do before the server takes the WAL away, in MiB as the settings count.
fn warning(wal_status: Option<&str>, retained: Option<i64>, limit: Option<i64>) -> Option<String> {
    let (retained, limit) = (retained?, limit?);
    let near = retained.saturating_mul(100) >= limit.saturating_mul(WELL_BELOW);
    if !near && !matches!(wal_status, Some("unreserved" | LOST)) {
        return None;
    }
    Some(format!(
        "the slot keeps {} MiB of WAL and max_slot_wal_keep_size is {} MiB: beyond it changes are lost. Find out why \
         events are not queued (the log, a full disk, a long transaction), or run: \
         ALTER SYSTEM SET max_slot_wal_keep_size = '{}MB'; SELECT pg_reload_conf();",
        retained / MEBIBYTE,
        limit / MEBIBYTE,
        limit / MEBIBYTE * 4
    ))
}

#[cfg(test)]
mod tests {
    use super::warning;

    #[test]
    fn a_slot_is_warned_of_before_it_is_lost() {
        let mebibyte = 1024 * 1024;
        let of = |status, retained: i64, limit: Option<i64>| {
            warning(Some(status), Some(retained * mebibyte), limit.map(|limit| limit * mebibyte))
        };
        assert_eq!(of("reserved", 79, Some(100)), None);
        assert_eq!(of("extended", 5000, None), None, "no limit, no loss");
        let text = of("extended", 80, Some(100)).expect("near");
        assert!(text.contains("80 MiB") && text.contains("'400MB'"), "{text}");
        assert!(of("unreserved", 70, Some(100)).is_some());
    }
}
