//! Frames in, chunks for the queue out. No I/O: what is here is only what a chunk may hold and when it is cut.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;
use uuid::Uuid;

use super::Error;
use super::backfill::{self, Outcome, Request, Tracker};
use super::message;
use crate::matching::{Change, Matcher, Moment, Watch};
use crate::model::{Event, Lsn, Position, TableName, Timestamp};
use crate::pgoutput::{self, Cell, Message, Relation, Tuple, TypeShape};
use crate::postgres::replication::Frame;
use crate::queue::{Activation, Advance, Chunk};

/// A chunk of whole transactions is cut here; a transaction that is a little larger still fits into one.
const ENOUGH_EVENTS: usize = 2000;
const MAX_EVENTS: usize = 3000;
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Collects what transactions make until it is worth an append.
pub(super) struct Assembler {
    matcher: Matcher,
    ascii: bool,
    refused: message::Refused,
    /// The source's id in its own catalogue, which other sources of the same database share.
    catalogue_id: i16,
    /// Transactions that committed before this are in the log already.
    resume: Lsn,
    /// Of the backfill at work.
    tracker: Option<Tracker>,
    /// A backfill was asked for, here or in another process.
    backfill_asked: Arc<Notify>,
    /// The description of walhook's own `trigger_version`, whose rows are not events but definitions.
    definitions: Option<Relation>,
    open: Option<OpenTransaction>,
    events: Vec<Event>,
    bytes: usize,
    activations: VecDeque<Activation>,
    advances: VecDeque<Advance>,
    /// How many of `events`, `activations` and `advances` belong to transactions that ended.
    whole_events: usize,
    whole_activations: usize,
    whole_advances: usize,
    /// The end of the last transaction that ended, when it is not in a chunk yet.
    whole_progress: Option<Lsn>,
    /// The message of a change that is matched again once its table's types were looked up.
    postponed: Option<Vec<u8>>,
    /// A table with a row that does not fit what the catalogue says of its types.
    misfit: Option<TableName>,
}

/// Types that must be looked up before the next frame is taken in.
pub(super) struct WantedTypes {
    pub(super) ids: Vec<u32>,
    /// The open transaction: a lookup that does not see it comes too early.
    pub(super) xid: Option<u32>,
}

struct OpenTransaction {
    /// Of the last change; its ordinal counts them.
    moment: Moment,
    skipped: bool,
    /// A chunk without progress was cut from it, so its last one must hold an event.
    cut: bool,
    /// Tables whose types were looked up in it because a row did not fit them.
    looked_up: Vec<u32>,
}

impl Assembler {
    /// With `ascii` what writers say is escaped, see [`message::escaped`].
    pub(super) fn new(
        matcher: Matcher,
        ascii: bool,
        catalogue_id: i16,
        resume: Lsn,
        backfill_asked: Arc<Notify>,
    ) -> Self {
        Assembler {
            matcher,
            ascii,
            refused: message::Refused::default(),
            catalogue_id,
            resume,
            tracker: None,
            backfill_asked,
            definitions: None,
            open: None,
            events: Vec::with_capacity(MAX_EVENTS),
            bytes: 0,
            activations: VecDeque::new(),
            advances: VecDeque::new(),
            whole_events: 0,
            whole_activations: 0,
            whole_advances: 0,
            whole_progress: None,
            postponed: None,
            misfit: None,
        }
    }

    /// Takes a frame in. Returns the position up to which nothing is left to be captured, if the frame says so.
    pub(super) fn take(&mut self, frame: Frame<'_>) -> Result<Option<Lsn>, Error> {
        match frame {
            Frame::Message(bytes) => self.message(bytes),
            // Inside a transaction it says nothing about that transaction.
            Frame::Position(position) => Ok((self.open.is_none() && self.is_empty()).then_some(position)),
        }
    }

    fn message(&mut self, bytes: &[u8]) -> Result<Option<Lsn>, Error> {
        match pgoutput::decode(bytes)? {
            Message::Begin { commit_lsn, xid, committed_at } => {
                let skipped = commit_lsn < self.resume;
                let position = Position { commit_lsn, ordinal: 0 };
                let moment = Moment { position, xid, committed_at, replicated: false, session_variables: None };
                self.open = Some(OpenTransaction { moment, skipped, cut: false, looked_up: Vec::new() });
            }
            Message::Commit { end_lsn } => {
                self.open = None;
                self.whole_events = self.events.len();
                self.whole_activations = self.activations.len();
                self.whole_advances = self.advances.len();
                self.whole_progress = Some(end_lsn);
                return Ok(self.is_empty().then_some(end_lsn));
            }
            Message::Relation(relation) => self.describe(relation),
            Message::Insert { relation, new } => {
                if self.definitions.as_ref().is_some_and(|definitions| definitions.id == relation) {
                    return self.define(new).map(|()| None);
                }
                self.change(bytes, relation, Change::Insert(new));
            }
            Message::Update { relation, old, new } => self.change(bytes, relation, Change::Update(old, new)),
            Message::Delete { relation, old } => self.change(bytes, relation, Change::Delete(old)),
            // Without CASCADE and with it, each table is named once.
            Message::Truncate(relations) => {
                self.matcher.pass(None);
                relations.iter().for_each(|relation| self.change(bytes, relation, Change::Truncate))
            }
            Message::Origin => self.open.iter_mut().for_each(|open| open.moment.replicated = true),
            Message::Logical { transactional: true, prefix, content } if prefix == message::PREFIX.as_bytes() => {
                self.say(content)
            }
            Message::Logical { transactional: true, prefix, content } if prefix == backfill::PREFIX.as_bytes() => {
                self.fill(content);
            }
            Message::Type | Message::Logical { .. } => {}
        }
        Ok(None)
    }

    /// Nothing of schema `walhook` is ever matched, so walhook's own writes make no events whatever is published.
    fn describe(&mut self, relation: Relation) {
        if relation.table.schema != "walhook" {
            self.matcher.describe(relation);
        } else if relation.table.name == "trigger_version" {
            self.definitions = Some(relation);
        }
    }

    fn change(&mut self, message: &[u8], relation: u32, change: Change<'_>) {
        let Some(open) = &mut self.open else { return };
        open.moment.position.ordinal += 1;
        if open.skipped {
            self.matcher.pass(Some(relation));
            return;
        }
        let before = self.events.len();
        if !self.matcher.fire(relation, change, &open.moment, &mut self.events) {
            // Once a transaction: what the catalogue says after the transaction is all that can be known of it.
            if !open.looked_up.contains(&relation) && self.matcher.want_types(relation) {
                open.looked_up.push(relation);
                open.moment.position.ordinal -= 1;
                self.events.truncate(before);
                self.postponed = Some(message.to_vec());
                return;
            }
            self.misfit = self.matcher.relation(relation).map(|relation| relation.table.clone());
        }
        if let Some(tracker) = self.tracker.as_mut().filter(|tracker| tracker.minds(relation, open.moment.xid)) {
            let is_told = || self.events[before..].iter().any(|event| event.trigger_id == tracker.trigger_id());
            // A row that is inserted is no row of the chunk, unless that one was deleted before: this is noted whatever
            // the trigger is told of.
            let is_superseded = match change {
                Change::Insert(_) => false,
                Change::Update(..) => is_told(),
                Change::Delete(_) | Change::Truncate => true,
            };
            if is_superseded {
                tracker.note(open.moment.xid, self.matcher.key_before(relation, change, tracker.key()));
            }
        }
        self.count_bytes(before);
    }

    /// What a backfill's reader asks for.
    pub(super) fn backfill(&mut self, request: Request) {
        // A reader that is gone does not mind.
        match request {
            Request::Track { tracker, done } => {
                self.tracker = Some(tracker);
                let _ = done.send(());
            }
            Request::Fill { chunk, taken_in } => {
                self.matcher.want_types_of(&chunk.relation);
                if let Some(tracker) = &mut self.tracker {
                    tracker.expect(chunk);
                }
                let _ = taken_in.send(());
            }
        }
    }

    /// A backfill was asked for, or this is the place of a chunk's rows.
    fn fill(&mut self, content: &[u8]) {
        let Some(open) = self.open.as_mut().filter(|open| !open.skipped) else { return };
        let Some(tracker) = &mut self.tracker else { return self.backfill_asked.notify_one() };
        let Some((chunk, superseded)) = tracker.pass(content) else { return self.backfill_asked.notify_one() };
        let backfill::Chunk { backfill_id, trigger_id, relation, rows, last_key, looked_at, outcome, .. } = *chunk;
        let before = self.events.len();
        let (ids, moment) = ((trigger_id, backfill_id), &mut open.moment);
        let tuples = rows.iter().map(|row| row.tuple());
        if !self.matcher.backfill(ids, &relation, tuples, moment, &mut self.events) {
            let _ = outcome.send(Outcome::Gone);
            return;
        }
        let sent = (self.events.len() - before) as i64;
        self.advances.push_back(Advance { backfill_id, last_key, looked_at, sent, superseded });
        tracker.await_commit(outcome);
        self.count_bytes(before);
    }

    /// A chunk with an advance is committed.
    pub(super) fn advanced(&mut self) {
        self.tracker.iter_mut().for_each(Tracker::committed);
    }

    /// Takes in what the writer of the open transaction said. It must never stop capture: anybody may write anything.
    fn say(&mut self, content: &[u8]) {
        let Some(open) = &mut self.open else { return };
        open.moment.position.ordinal += 1;
        if open.skipped {
            return;
        }
        let before = self.events.len();
        let said = message::decode(content).and_then(|said| said.committed(open.moment.committed_at, Timestamp::now()));
        match said {
            Ok(message::Message::Context(context)) => {
                let escaped = context.as_deref().filter(|_| self.ascii).and_then(message::escaped);
                open.moment.session_variables = escaped.map(Bytes::from).or(context);
            }
            Ok(message::Message::Event { event_type, data, deliver_at }) => {
                let escaped = Some(data).filter(|_| self.ascii).and_then(message::escaped);
                let data = escaped.as_deref().unwrap_or(data);
                self.matcher.emit(&event_type, data, deliver_at, &open.moment, &mut self.events);
            }
            Err(reason) => self.refused.note(open.moment.position.commit_lsn, &reason),
        }
        self.count_bytes(before);
    }

    fn count_bytes(&mut self, before: usize) {
        self.bytes += self.events[before..].iter().map(Event::size).sum::<usize>();
    }

    /// Whether a transaction has begun that has no change yet.
    pub(super) fn is_at_begin(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.moment.position.ordinal == 0)
    }

    /// What must be looked up and [learned](Self::learn) before the next frame is taken in.
    pub(super) fn wanted_types(&self) -> Option<WantedTypes> {
        let wanted = self.matcher.wanted_types();
        let xid = self.open.as_ref().map(|open| open.moment.xid);
        (!wanted.is_empty()).then(|| WantedTypes { ids: wanted.to_vec(), xid })
    }

    /// Wants the types that can change without a word in the stream to be looked up.
    pub(super) fn doubt_types(&mut self) {
        self.matcher.doubt_types();
    }

    /// Takes in what was looked up, and the change that waited for it.
    pub(super) fn learn(&mut self, found: Vec<(u32, TypeShape)>) -> Result<(), Error> {
        self.matcher.learn(found);
        match self.postponed.take() {
            Some(message) => self.message(&message).map(|_| ()),
            None => Ok(()),
        }
    }

    /// A table with a row that did not fit what the catalogue says, if there was one since the last call.
    pub(super) fn take_misfit(&mut self) -> Option<TableName> {
        self.misfit.take()
    }

    /// The tables that are watched, as the stream described them.
    pub(super) fn watched_tables(&self) -> impl Iterator<Item = (u32, &TableName)> {
        self.matcher.watched_tables()
    }

    /// A trigger was created, replaced or deleted here.
    fn define(&mut self, row: Tuple<'_>) -> Result<(), Error> {
        let (Some(definitions), Some(open)) = (&self.definitions, &self.open) else { return Ok(()) };
        let text = |name: &str| {
            let index = definitions.columns.iter().position(|column| column.name == name)?;
            match row.cell(index)? {
                Cell::Text(text) => std::str::from_utf8(text).ok(),
                Cell::Null | Cell::Unchanged => None,
            }
        };
        let corrupt = || Error::Unusable("a row of walhook.trigger_version in the WAL cannot be read".into());
        let trigger_id: Uuid = text("trigger_id").and_then(|text| text.parse().ok()).ok_or_else(corrupt)?;
        let version: i32 = text("version").and_then(|text| text.parse().ok()).ok_or_else(corrupt)?;
        let source_id: i16 = text("source_id").and_then(|text| text.parse().ok()).ok_or_else(corrupt)?;
        if source_id != self.catalogue_id {
            return Ok(());
        }
        let (watch, definition) = (text("watch"), text("definition"));
        let parsed: Option<Watch> = watch.map(serde_json::from_str).transpose().map_err(|_| corrupt())?;
        self.activations.push_back(Activation {
            trigger_id,
            version,
            commit_lsn: open.moment.position.commit_lsn,
            watch: watch.map(ToOwned::to_owned),
            definition: definition.map(ToOwned::to_owned),
        });
        self.matcher.activate(trigger_id, version, parsed);
        Ok(())
    }

    /// Whether nothing waits for an append.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.activations.is_empty() && self.advances.is_empty()
    }

    /// Whether a chunk must be cut before more is taken in. One event alone is never too much, however large: nothing
    /// could be cut from the transaction that it is the last event of so far.
    pub(super) fn is_full(&self) -> bool {
        let events = if self.open.is_some() { MAX_EVENTS } else { ENOUGH_EVENTS };
        self.events.len() >= events || (self.bytes >= MAX_BYTES && self.events.len() > 1)
    }

    /// Cuts the next chunk: all whole transactions, or else, when full, a part of the open one. The last event of an
    /// open transaction is kept back, because the chunk that ends it must hold one to carry the progress.
    pub(super) fn cut(&mut self) -> Option<Chunk> {
        // Whole transactions without events need no append; the session notes how far they went.
        if let Some(progress) = self.whole_progress.take().filter(|_| self.has_whole()) {
            let (activations, advances) = (self.whole_activations, self.whole_advances);
            return Some(self.take_front(self.whole_events, activations, advances, Some(progress)));
        }
        let full = self.is_full();
        let open = self.open.as_mut()?;
        open.cut |= full;
        full.then(|| self.take_front(self.events.len() - 1, self.activations.len(), self.advances.len(), None))
    }

    fn has_whole(&self) -> bool {
        self.whole_events + self.whole_activations + self.whole_advances > 0
    }

    /// Whether the open transaction has uncommitted chunks in the queue.
    pub(super) fn has_cut_open_transaction(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.cut)
    }

    fn take_front(&mut self, events: usize, activations: usize, advances: usize, progress: Option<Lsn>) -> Chunk {
        let rest = self.events.split_off(events);
        let taken = std::mem::replace(&mut self.events, rest);
        self.bytes = self.events.iter().map(Event::size).sum();
        self.whole_events = 0;
        self.whole_activations = 0;
        self.whole_advances = 0;
        Chunk {
            events: taken,
            activations: self.activations.drain(..activations).collect(),
            advances: self.advances.drain(..advances).collect(),
            progress,
        }
    }
}
