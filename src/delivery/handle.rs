//! What the rest of the process may ask of a running delivery.

use tokio::sync::{mpsc, oneshot};

use super::Figures;
use crate::model::EventId;

/// A question or a hint for the dispatcher.
#[derive(Debug)]
pub enum Command {
    /// A definition was created, replaced or deleted: load the definitions anew, then answer.
    CatalogueChanged(oneshot::Sender<()>),
    /// Triggers may have been changed, paused or resumed: load them anew.
    TriggersChanged,
    /// Whether a request for this event is under way or not yet recorded.
    IsInFlight(EventId, oneshot::Sender<bool>),
    /// A deferred row was added that is due now.
    DeferredAdded,
    /// What came of the deliveries so far.
    Figures(oneshot::Sender<Figures>),
    /// Another node appended to the log of this source, up to this seq.
    LogGrew(i16, i64),
}

/// A cheap handle to the dispatcher of this process. Where none runs, hints are dropped and nothing is in flight; the
/// node that delivers finds the change by its slow poll.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

const COMMANDS_WAITING: usize = 64;

/// A handle and the end the dispatcher reads from.
pub fn handle() -> (Handle, mpsc::Receiver<Command>) {
    let (commands, receiver) = mpsc::channel(COMMANDS_WAITING);
    (Handle { commands }, receiver)
}

impl Handle {
    /// Returns once deliveries use the definitions as they are in the catalogue now.
    pub async fn catalogue_changed(&self) {
        self.ask(Command::CatalogueChanged).await;
    }

    /// Whether a request for this event is under way in this process, or was and is not yet recorded.
    pub async fn is_in_flight(&self, event: EventId) -> bool {
        self.ask(|answer| Command::IsInFlight(event, answer)).await.unwrap_or(false)
    }

    /// Looks for due deferred events soon.
    pub async fn deferred_added(&self) {
        drop(self.commands.send(Command::DeferredAdded).await);
    }

    /// What came of the deliveries so far; `None` after they ended.
    pub async fn figures(&self) -> Option<Figures> {
        self.ask(Command::Figures).await
    }

    /// Loads the triggers anew soon.
    pub(super) async fn triggers_changed(&self) {
        drop(self.commands.send(Command::TriggersChanged).await);
    }

    /// Reads what another node appended to a source's log, up to `head`.
    pub(super) async fn log_grew(&self, source_id: i16, head: i64) {
        drop(self.commands.send(Command::LogGrew(source_id, head)).await);
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.ok()?;
        answered.await.ok()
    }
}
