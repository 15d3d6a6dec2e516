//! Custom events: which triggers are on a type, and the event that each one gets.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::Moment;
use super::watch::Watches;
use crate::model::{Event, EventId, Operation, Subject, Timestamp, trigger_lane};

/// The types that triggers are on.
#[derive(Debug, Default)]
pub(super) struct CustomTypes {
    by_name: HashMap<String, Type>,
}

#[derive(Debug)]
struct Type {
    subject: Arc<Subject>,
    triggers: Vec<Uuid>,
}

impl CustomTypes {
    pub(super) fn new(watches: &Watches) -> Self {
        let with_triggers = |(name, triggers): (&str, Vec<Uuid>)| {
            let subject = Arc::new(Subject::Type(name.to_owned()));
            (name.to_owned(), Type { subject, triggers })
        };
        CustomTypes { by_name: watches.by_type().into_iter().map(with_triggers).collect() }
    }

    /// Appends the events that a custom event makes, one for each trigger on its type, perhaps for a later time.
    /// Whether the transaction arrived by replication does not matter: messages are not replicated, it was made here.
    pub(super) fn emit(
        &self,
        event_type: &str,
        data: &[u8],
        deliver_at: Option<Timestamp>,
        moment: &Moment,
        id: impl Fn(Uuid) -> EventId,
        events: &mut Vec<Event>,
    ) {
        let Some(Type { subject, triggers }) = self.by_name.get(event_type) else { return };
        let data = Bytes::copy_from_slice(data);
        events.extend(triggers.iter().map(|&trigger_id| Event {
            id: id(trigger_id),
            trigger_id,
            lane: trigger_lane(trigger_id),
            row_hash: None,
            operation: Operation::Custom,
            subject: Arc::clone(subject),
            position: moment.position,
            xid: moment.xid,
            committed_at: moment.committed_at,
            old: None,
            new: Some(data.clone()),
            missing: None,
            old_partial: false,
            undecided: false,
            session_variables: moment.session_variables.clone(),
            backfill_id: None,
            deliver_at,
        }));
    }
}
