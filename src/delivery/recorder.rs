//! Owns the lanes and writes outcomes through the very session that owns them. Comes back by itself after a lost
//! connection, with the batch it had in hand.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::model::RowHash;
use crate::node::Member;
use crate::postgres::{self, Session, Settings};
use crate::queue::{self, Acquired, Batch, CursorMove, OutcomeWriter, Purpose};

/// What the dispatcher hands over; one thing at a time.
#[derive(Debug)]
pub(super) enum Work {
    /// What became of events.
    Outcomes {
        /// Counts how often the lanes were got after others may have had them.
        tenure: u64,
        batch: Batch,
    },
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
    /// This is durable. In these rows others still wait, of those that deferred events of the batch had held.
    Recorded { batch: Batch, still_held: Vec<(Uuid, RowHash)> },
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
    #[error("the session that owns the lanes was closed")]
    Closed,
    #[error("others took this node for dead")]
    TakenForDead,
}

/// See the module's description.
pub(super) struct Recorder {
    pub(super) database: Settings,
    pub(super) member: Member,
    pub(super) work: mpsc::Receiver<Work>,
    pub(super) tenure: u64,
    /// Whether others may have had the lanes, which the dispatcher was not told yet.
    pub(super) anew: bool,
    /// A few at most: one for each work, two for each session.
    pub(super) reports: mpsc::UnboundedSender<Report>,
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
            if self.reports.send(Report::Lost).is_err() {
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
        let mut standing = self.member.standing.clone();
        let registrations = loop {
            let registrations = standing.borrow_and_update().registrations;
            // Before it owns a lane, so that others can end it.
            if within(queue::own_session(&*session, self.member.id, Purpose::Lanes)).await? {
                break registrations;
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = standing.changed() => if changed.is_err() { return Ok(()) },
            }
        };
        // Registered again, its lanes were free for others, and whatever goes on here goes on in vain.
        let anew = async { standing.wait_for(|standing| standing.registrations > registrations).await.is_ok() };
        tokio::select! {
            ended = self.work(session, in_hand, stop, pause) => ended,
            true = anew => Err(Error::TakenForDead),
        }
    }

    /// Owns the lanes and writes what it is handed.
    async fn work(
        &mut self,
        session: Session,
        in_hand: &mut Option<Work>,
        stop: &CancellationToken,
        pause: &mut Duration,
    ) -> Result<(), Error> {
        let (mut held, mut told) = (0, false);
        let acquired = loop {
            match within(queue::try_acquire_lanes(&session, self.member.id, &mut held)).await {
                Ok(Acquired::No) => {}
                Ok(acquired) => break acquired,
                Err(error) => {
                    // The lanes may have been noted as ours, and the next try would not know whose they were before.
                    self.anew = true;
                    return Err(error);
                }
            }
            if !std::mem::replace(&mut told, true) {
                info!("another node delivers; standing by");
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(STANDBY_PAUSE) => {}
            }
        };
        self.anew |= acquired == Acquired::Anew;
        if self.anew {
            // Others may have delivered what these are of, or be done with what they would wait for.
            *in_hand = None;
        }
        let mut writer = within(OutcomeWriter::new(session)).await?;
        *pause = FIRST_PAUSE;
        let mut still_held = Vec::new();
        if let Some(Work::Outcomes { batch, .. }) = in_hand.as_ref() {
            // The commit may have happened though its answer was lost.
            let recorded = within(writer.is_recorded(batch)).await?;
            still_held =
                within(async { if recorded { writer.release(batch).await } else { writer.record(batch).await } })
                    .await?;
        }
        let anew = std::mem::take(&mut self.anew);
        self.tenure += u64::from(anew);
        if !self.report_done(in_hand.take(), still_held) || !self.report(Report::Owned { anew }) {
            return Ok(());
        }
        loop {
            let work = tokio::select! {
                work = self.work.recv() => match work {
                    // Handed over before the dispatcher knew that others may have had the lanes.
                    Some(Work::Outcomes { tenure, .. }) if tenure != self.tenure => continue,
                    Some(work) => work,
                    None => return Ok(()),
                },
                // An idle session does not notice by itself.
                () = writer.closed() => return Err(Error::Closed),
            };
            let writing = async {
                match in_hand.insert(work) {
                    Work::Outcomes { batch, .. } => writer.record(batch).await,
                    Work::Cursors(moves) => writer.write_cursors(moves).await.map(|()| Vec::new()),
                }
            };
            let still_held = within(writing).await?;
            if !self.report_done(in_hand.take(), still_held) {
                return Ok(());
            }
        }
    }

    fn report_done(&self, work: Option<Work>, still_held: Vec<(Uuid, RowHash)>) -> bool {
        match work {
            Some(Work::Outcomes { batch, .. }) => self.report(Report::Recorded { batch, still_held }),
            Some(Work::Cursors(_)) => self.report(Report::CursorsWritten),
            None => true,
        }
    }

    /// False when nobody listens any more.
    fn report(&self, report: Report) -> bool {
        self.reports.send(report).is_ok()
    }
}

/// Bounds a wait for Postgres.
async fn within<T>(work: impl Future<Output = Result<T, queue::Error>>) -> Result<T, Error> {
    Ok(tokio::time::timeout(WRITE_TIMEOUT, work).await.map_err(|_| Error::TimedOut)??)
}
