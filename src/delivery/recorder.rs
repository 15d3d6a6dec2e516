//! Owns the lanes and writes outcomes through the very session that owns them. Comes back by itself after a lost
//! connection, with the batch it had in hand.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::postgres::{self, Settings};
use crate::queue::{self, Acquired, CursorMove, OutcomeWriter, Settled};

/// What the dispatcher hands over; one thing at a time.
#[derive(Debug)]
pub(super) enum Work {
    /// Attempts that ended.
    Outcomes(Vec<Settled>),
    /// Places the cursors moved to.
    Cursors(Vec<CursorMove>),
}

/// What the dispatcher is told.
#[derive(Debug)]
pub(super) enum Report {
    /// The lanes are ours. `anew`: others may have worked on them, so what is known of them is void.
    Owned { anew: bool },
    /// The lanes are not ours any more: start nothing.
    Lost,
    /// These are durable.
    Recorded(Vec<Settled>),
    /// The cursors are written.
    CursorsWritten,
}

/// Why a connection was given up. Each is tried again.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Queue(#[from] queue::Error),
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    #[error("Postgres took longer than {} s for a batch", WRITE_TIMEOUT.as_secs())]
    TimedOut,
}

/// See the module's description.
pub(super) struct Recorder {
    pub(super) database: Settings,
    pub(super) node: Uuid,
    pub(super) work: mpsc::Receiver<Work>,
    pub(super) reports: mpsc::Sender<Report>,
}

/// A batch is small: what takes this long is a connection that is dead without saying so.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
const STANDBY_PAUSE: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl Recorder {
    /// Runs until the dispatcher drops its end, or until stopped while it has no lanes.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut in_hand: Option<Work> = None;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.session(&mut in_hand, &stop, &mut pause).await {
                Ok(()) => return,
                Err(error) => {
                    warn!("recording outcomes interrupted: {error}; deliveries wait, trying again in {pause:?}");
                }
            }
            if self.reports.send(Report::Lost).await.is_err() {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One connection's worth. An error leaves the work that was not done in `in_hand`.
    async fn session(
        &mut self,
        in_hand: &mut Option<Work>,
        stop: &CancellationToken,
        pause: &mut Duration,
    ) -> Result<(), Error> {
        let session = postgres::connect(&self.database, "walhook delivery").await?;
        let (mut held, mut told) = (0, false);
        let acquired = loop {
            match within(queue::try_acquire_lanes(&session, self.node, &mut held)).await? {
                Acquired::No => {}
                acquired => break acquired,
            }
            if !std::mem::replace(&mut told, true) {
                info!("another node delivers; standing by");
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(STANDBY_PAUSE) => {}
            }
        };
        let mut writer = within(OutcomeWriter::new(session)).await?;
        *pause = FIRST_PAUSE;
        if let Some(Work::Outcomes(batch)) = in_hand.as_ref() {
            // The commit may have happened though its answer was lost.
            if !within(writer.is_recorded(batch)).await? {
                within(writer.record(batch)).await?;
            }
        }
        if !self.report_done(in_hand.take()).await
            || !self.report(Report::Owned { anew: acquired == Acquired::Anew }).await
        {
            return Ok(());
        }
        while let Some(work) = self.work.recv().await {
            let writing = async {
                match in_hand.insert(work) {
                    Work::Outcomes(batch) => writer.record(batch).await,
                    Work::Cursors(moves) => writer.write_cursors(moves).await,
                }
            };
            within(writing).await?;
            if !self.report_done(in_hand.take()).await {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn report_done(&self, work: Option<Work>) -> bool {
        match work {
            Some(Work::Outcomes(batch)) => self.report(Report::Recorded(batch)).await,
            Some(Work::Cursors(_)) => self.report(Report::CursorsWritten).await,
            None => true,
        }
    }

    /// False when nobody listens any more.
    async fn report(&self, report: Report) -> bool {
        self.reports.send(report).await.is_ok()
    }
}

/// Bounds a wait for Postgres.
async fn within<T>(work: impl Future<Output = Result<T, queue::Error>>) -> Result<T, Error> {
    Ok(tokio::time::timeout(WRITE_TIMEOUT, work).await.map_err(|_| Error::TimedOut)??)
}
