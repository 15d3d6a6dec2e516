//! Owns lanes, as many as are this node's share, and writes outcomes through the very session that owns them. Comes
//! back by itself after a lost connection, with the batch it had in hand.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use super::gate::Gate;
use super::tenure::{Tenure, Terms};
use crate::model::{LaneSet, RowHash};
use crate::node::Member;
use crate::postgres::{self, Session, Settings};
use crate::queue::{self, Batch, CursorMove, OutcomeWriter, Purpose};

/// What the dispatcher hands over; one thing at a time. Each is answered by one report.
#[derive(Debug)]
pub(super) enum Work {
    /// What became of events, and the terms in which their requests began. `lanes`: those in which events are sent.
    /// `later` is empty: what cannot be recorded yet goes there.
    Outcomes { terms: Box<Terms>, lanes: LaneSet, batch: Batch, later: Batch },
    /// Places the cursors moved to.
    Cursors(Vec<CursorMove>),
    /// Lanes to be given back, of those that this session got.
    GiveBack { session: u64, lanes: LaneSet },
}

/// What the dispatcher is told.
#[derive(Debug)]
pub(super) enum Report {
    /// Lanes were got, and all these are ours now. Of lanes whose term is another one, what is known is void.
    Got { session: u64, owned: LaneSet, terms: Terms },
    /// No lanes are ours any more: start nothing.
    Lost,
    /// They are not ours any more, as was asked for.
    GivenBack(LaneSet),
    /// This is durable; what was of lanes that were lost is left out. In these rows others still wait, of those that
    /// deferred events of the batch had held. What others lock is to be recorded `later`.
    Recorded { batch: Batch, still_held: Vec<(Uuid, RowHash)>, later: Batch },
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
    database: Settings,
    member: Member,
    work: mpsc::Receiver<Work>,
    /// A few at most: one for each work, some for each change of the lanes.
    reports: mpsc::UnboundedSender<Report>,
    tenure: Tenure,
    gate: Gate,
    /// Counts the sessions.
    session: u64,
}

/// A batch is small: what takes this long is a connection that is dead without saying so.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A session that lasts for so long works, even if there was nothing to do. By then others have the lanes that they
/// were left, and what could not be recorded is void.
const WORKS_AFTER: Duration = Duration::from_secs(3);

impl Recorder {
    pub(super) fn new(
        database: Settings,
        member: Member,
        work: mpsc::Receiver<Work>,
        reports: mpsc::UnboundedSender<Report>,
        gate: Gate,
    ) -> Recorder {
        Recorder { database, member, work, reports, tenure: Tenure::default(), gate, session: 0 }
    }

    /// Runs until the dispatcher drops its end. After the stop it gets no lanes but those that it lost, as what was
    /// under way in them is still to be recorded.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut in_hand: Option<Work> = None;
        let mut pause = FIRST_PAUSE;
        loop {
            match self.session(&mut in_hand, &stop, &mut pause).await {
                Ok(()) => return,
                Err(error) => {
                    self.member.trouble.begins();
                    warn!("recording outcomes interrupted: {error}; deliveries wait, trying again in {pause:?}");
                }
            }
            self.tenure.session_ended();
            self.set_gate();
            if self.reports.send(Report::Lost).is_err() {
                return;
            }
            tokio::select! {
                () = self.reports.closed() => return,
                // Then there is not much time left.
                () = stop.cancelled(), if pause > FIRST_PAUSE => pause = FIRST_PAUSE,
                () = tokio::time::sleep(pause) => {
                    pause = if stop.is_cancelled() { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
                }
            }
        }
    }

    /// One connection's worth. An error leaves the work that was not done in `in_hand`.
    async fn session(
        &mut self,
        in_hand: &mut Option<Work>,
        stop: &CancellationToken,
        pause: &mut Duration,
    ) -> Result<(), Error> {
        let session = tokio::select! {
            () = self.reports.closed() => return Ok(()),
            session = postgres::connect(&self.database, "walhook delivery") => session?,
        };
        let mut standing = self.member.standing.clone();
        let registered_at = loop {
            let told = standing.borrow_and_update().registered_at;
            // Before it owns a lane, so that others can end it. Not before it was told of that registration, which it
            // would take for yet another one when it is.
            let named = queue::own_session(&*session, self.member.id, Purpose::Lanes);
            if told.is_some() && within(named).await? == told {
                break told;
            }
            tokio::select! {
                () = self.reports.closed() => return Ok(()),
                changed = standing.changed() => if changed.is_err() { return Ok(()) },
            }
        };
        // Registered again, its lanes were free for others, and whatever goes on here goes on in vain.
        let anew = async { standing.wait_for(|standing| standing.registered_at != registered_at).await.is_ok() };
        tokio::select! {
            ended = self.work(session, in_hand, stop, pause) => ended,
            true = anew => Err(Error::TakenForDead),
        }
    }

    /// Owns lanes and does what it is handed.
    async fn work(
        &mut self,
        session: Session,
        in_hand: &mut Option<Work>,
        stop: &CancellationToken,
        pause: &mut Duration,
    ) -> Result<(), Error> {
        self.session += 1;
        let mut writer = within(OutcomeWriter::new(session)).await?;
        let mut standing = self.member.standing.clone();
        standing.mark_changed();
        let (began, mut works) = (Instant::now(), false);
        loop {
            let has_lanes = !self.tenure.owned().is_empty();
            let work = tokio::select! {
                // Told with each heartbeat: lanes may be free that are our share.
                changed = standing.changed() => {
                    if changed.is_err() {
                        return self.end();
                    }
                    if self.take_lanes(&writer, stop.is_cancelled()).await? {
                        if in_hand.is_some() {
                            self.perform(&mut writer, in_hand, true).await?;
                        }
                        *pause = FIRST_PAUSE;
                        self.set_gate();
                        let (owned, terms) = (self.tenure.owned(), self.tenure.terms());
                        self.report(Report::Got { session: self.session, owned, terms });
                    }
                    continue;
                }
                // What was in hand when the last session ended comes first, once it is known whose lanes they are.
                // Before that nothing else is taken either: it would be thrown away though the lanes may come back.
                work = self.work.recv(), if in_hand.is_none() && has_lanes => match work {
                    Some(work) => work,
                    None => return self.end(),
                },
                () = self.reports.closed(), if !has_lanes => return self.end(),
                // What it could not do for so long, it may be able to do by now.
                () = sleep_until(began + WORKS_AFTER), if !works => {
                    works = true;
                    self.member.trouble.is_over();
                    continue;
                }
                // An idle session does not notice by itself.
                () = writer.closed() => return Err(Error::Closed),
            };
            *in_hand = Some(work);
            self.perform(&mut writer, in_hand, false).await?;
            if !std::mem::replace(&mut works, true) {
                self.member.trouble.is_over();
            }
        }
    }

    /// Nothing more is to be recorded. Before the session goes, and with it the lanes: a request that is connecting
    /// still must not be sent after the next owner's.
    fn end(&mut self) -> Result<(), Error> {
        self.tenure.session_ended();
        self.set_gate();
        Ok(())
    }

    /// Takes what is missing of this node's share, or of what it lost while it is stopping, where it is free. True when
    /// there is something new.
    async fn take_lanes(&mut self, writer: &OutcomeWriter, is_stopping: bool) -> Result<bool, Error> {
        let (share, owned) = (self.member.standing.borrow().share, self.tenure.owned());
        let (wanted, most) = match is_stopping {
            true => (self.tenure.lost(), self.tenure.lost().len()),
            false => (LaneSet::ALL.without(owned), share.saturating_sub(owned.len())),
        };
        if most == 0 {
            return Ok(false);
        }
        let taken = within(queue::take_lanes(&**writer.session(), self.member.id, wanted, most)).await?;
        self.tenure.took(taken);
        Ok(!taken.lanes.is_empty())
    }

    /// Does what is in hand, and reports it. `again`: another session may have done it.
    async fn perform(
        &mut self,
        writer: &mut OutcomeWriter,
        in_hand: &mut Option<Work>,
        again: bool,
    ) -> Result<(), Error> {
        let mut still_held = Vec::new();
        match in_hand {
            Some(Work::Outcomes { terms, lanes, batch, later }) => {
                // The commit may have happened though its answer was lost.
                let recorded = again && within(writer.is_recorded(batch)).await?;
                let still = self.tenure.still(terms);
                if still != LaneSet::ALL {
                    // Others may have delivered what the rest is of, or be done with what it would wait for.
                    batch.retain(still);
                    later.retain(still);
                }
                let ours = still.and(*lanes);
                let recording = async {
                    if recorded { writer.release(batch, ours).await } else { writer.record(batch, later, ours).await }
                };
                still_held = within(recording).await?;
            }
            Some(Work::Cursors(moves)) => within(writer.write_cursors(moves)).await?,
            Some(Work::GiveBack { session, lanes }) => {
                // Those of another session were lost with it.
                *lanes = if *session == self.session { *lanes } else { LaneSet::NONE };
                if !lanes.is_empty() {
                    within(queue::give_back_lanes(&**writer.session(), *lanes)).await?;
                    self.tenure.gave_back(*lanes);
                    self.set_gate();
                }
            }
            None => {}
        }
        self.report(match in_hand.take() {
            Some(Work::Outcomes { batch, later, .. }) => Report::Recorded { batch, still_held, later },
            Some(Work::GiveBack { lanes, .. }) => Report::GivenBack(lanes),
            Some(Work::Cursors(_)) | None => Report::CursorsWritten,
        });
        Ok(())
    }

    fn set_gate(&self) {
        self.gate.set(self.tenure.owned(), &self.tenure.terms());
    }

    /// When nobody listens any more, there comes no more work either.
    fn report(&self, report: Report) {
        drop(self.reports.send(report));
    }
}

/// Bounds a wait for Postgres.
async fn within<T>(work: impl Future<Output = Result<T, queue::Error>>) -> Result<T, Error> {
    Ok(tokio::time::timeout(WRITE_TIMEOUT, work).await.map_err(|_| Error::TimedOut)??)
}
