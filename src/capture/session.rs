//! One connection's worth of capture: from taking the source over to the first error or the stop.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use super::assembler::Assembler;
use super::backfill::{Reader, Request};
use super::figures::{Counting, Figures};
use super::health::Keeper;
use super::names::Names;
use super::pace::Pace;
use super::slot::Sessions;
use super::take_over::{Opening, take_over};
use super::types::TypeCatalogue;
use super::{Error, Options, State, slot};
use crate::matching::Matcher;
use crate::model::Lsn;
use crate::node::{Member, ServerClock};
use crate::pgoutput::Types;
use crate::postgres::Class;
use crate::postgres::replication::Stream;
use crate::queue::{self, Appended, FeedSender, LogWriter, Room, Uncommitted};

const TICK: Duration = Duration::from_secs(5);
/// What takes this long is a connection that is dead without saying so: a network that neither passes nor refuses. A
/// chunk is a few MiB at most; the tick's statements are short.
pub(super) const APPEND_TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const TICK_TIMEOUT: Duration = Duration::from_secs(10);
/// How much WAL without events is passed before progress is written for it. Our own progress row is WAL as well, so a
/// smaller step would keep an idle database busy with itself.
const IDLE_STEP: u64 = 64 * 1024;
const IDLE_STEP_AT_ONCE: u64 = 16 * 1024 * 1024;
/// Frames taken in a row before other tasks of this thread get a turn.
const FRAMES_IN_A_ROW: u32 = 1024;

/// Captures on one set of connections.
pub(super) async fn run(
    options: &Options,
    member: &Member,
    feed: &FeedSender,
    state: &watch::Sender<State>,
    figures: &watch::Sender<Figures>,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let Some((sessions, prepared)) = take_over(options, member.id, state, stop).await? else { return Ok(()) };
    let Sessions { source: control, queue: session } = sessions;
    // Only now: until the lock was ours, another node may have moved progress.
    let progress = within(APPEND_TIMEOUT, queue::read_progress(&*session, prepared.source_id)).await?;
    let watches = within(APPEND_TIMEOUT, queue::active_watches(&*session, prepared.source_id)).await?;
    let types = Types::new(options.stringify_numeric_types);
    let matcher = Matcher::new(prepared.facts.system_identifier.clone(), options.source.clone(), watches, types);
    let ascii = !within(APPEND_TIMEOUT, queue::has_all_characters(&*session)).await?;
    let writer = within(APPEND_TIMEOUT, LogWriter::new(session, prepared.source_id, progress.last_seq)).await?;
    let opening = Opening {
        options,
        facts: &prepared.facts,
        node: member.id,
        source_id: prepared.source_id,
        control: &control,
        queue: writer.session(),
        from: progress.lsn,
    };
    let Some(stream) = opening.open(stop).await? else { return Ok(()) };
    feed.tell_head(prepared.source_id, progress.last_seq);
    state.send_replace(State::Streaming);
    info!(source = options.source, slot = options.slot, "streaming from {}", progress.lsn);
    let asked = Arc::new(Notify::new());
    let assembler = Assembler::new(matcher, ascii, prepared.catalogue_id, progress.lsn, Arc::clone(&asked));
    let (_reading, asked_for) = start_reader(options, prepared.catalogue_id, asked);
    let mut running = Running {
        feed,
        clock: &member.clock,
        figures,
        counting: Counting::default(),
        stream,
        assembler,
        types: TypeCatalogue::new(&options.database),
        names: Names::new(&options.database, &options.publication),
        requests: asked_for,
        advanced: false,
        log: Log::Idle(Box::new(writer)),
        uncommitted: Uncommitted::default(),
        source_id: prepared.source_id,
        durable: progress.lsn,
        reached: progress.lsn,
        idle_written: Instant::now(),
        pace: Pace::new(),
    };
    let keeper = Keeper::new(control, options, prepared.facts.timeline, prepared.source_id, figures);
    let result = tokio::select! {
        result = running.run_until(stop) => result,
        error = keeper.keep() => Err(error),
    };
    feed.fall_silent(prepared.source_id);
    figures.send_modify(|figures| (figures.slot, figures.last) = (None, None));
    running.stream.close().await;
    match result {
        Err(error) if is_unpublished(&error) => {
            within(APPEND_TIMEOUT, slot::note_unpublished(options, prepared.source_id)).await?;
            // The next preparation says what that means, also where the publication was made again.
            Err(ended(error))
        }
        result => result,
    }
}

/// Before Postgres 18 a stream ends where a publication was missing at that place in the WAL.
fn is_unpublished(error: &Error) -> bool {
    const UNDEFINED_OBJECT: &str = "42704";
    // What a statement of ours is told comes as another kind.
    matches!(
        error,
        Error::Queue(queue::Error::Postgres(crate::postgres::Error::Server(error))) if error.code == UNDEFINED_OBJECT
    )
}

/// What reads tables for backfills.
fn start_reader(
    options: &Options,
    catalogue_id: i16,
    asked: Arc<Notify>,
) -> (AbortOnDropHandle<()>, mpsc::Receiver<Request>) {
    let (requests, asked_for) = mpsc::channel(1);
    let (database, queue) = (options.database.clone(), options.queue.clone());
    let publication = options.publication.clone();
    let reader = Reader { database, publication, queue, catalogue_id, requests, asked };
    (AbortOnDropHandle::new(tokio::spawn(reader.run())), asked_for)
}

/// An end after which another try may help.
pub(super) fn ended(message: impl ToString) -> Error {
    Error::Stream { message: message.to_string(), class: Class::Retry }
}

/// A task of its own, so that it goes on while this one decodes.
type Appending = AbortOnDropHandle<Result<Ended, Error>>;

/// An append that ended.
struct Ended {
    writer: Box<LogWriter>,
    appended: Appended,
    /// Delivery's room for what was appended.
    room: Option<Room>,
}

/// The log writer, idle or at work. While it works, frames are read on and the server gets its feedback.
enum Log {
    Idle(Box<LogWriter>),
    Appending(Appending),
    /// Only while changing from one to the other.
    Moving,
}

struct Running<'a> {
    feed: &'a FeedSender,
    clock: &'a ServerClock,
    figures: &'a watch::Sender<Figures>,
    counting: Counting,
    stream: Stream,
    assembler: Assembler,
    types: TypeCatalogue,
    names: Names,
    requests: mpsc::Receiver<Request>,
    /// A backfill advanced in the appends that wait for their commit.
    advanced: bool,
    log: Log,
    uncommitted: Uncommitted,
    source_id: i16,
    /// Everything that committed before this is durable in the queue; the most that is ever acknowledged.
    durable: Lsn,
    /// Everything that committed before this is durable or made no event.
    reached: Lsn,
    idle_written: Instant,
    pace: Pace,
}

impl Running<'_> {
    /// The loop. Arms in order of priority: the stop; the end of an append, which frees the writer and lets us
    /// acknowledge; what a backfill asks for; the next frame, if there is room; the ends of pauses; the tick. Each is
    /// cancel-safe: the append lives in `self.log` across iterations, and what was not returned was not taken.
    async fn run_until(&mut self, stop: &CancellationToken) -> Result<(), Error> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.take_ready_frames().await?;
            self.start_append();
            let full = self.assembler.is_full();
            let rests =
                (matches!(self.log, Log::Appending(_)) || self.pauses()) && Instant::now() < self.pace.read_at();
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.finish().await,
                appended = wait_for(&mut self.log) => self.appended(appended?),
                Some(request) = self.requests.recv() => {
                    self.assembler.backfill(request);
                    self.look_up_types().await?;
                }
                frame = self.stream.next(), if !full && !rests => {
                    self.pace.took(1);
                    let reached = self.assembler.take(frame?)?;
                    self.note_reached(reached);
                    self.look_up_types().await?;
                }
                () = sleep_until(self.pace.read_at()), if !full && rests => {}
                () = sleep_until(self.pace.append_at()), if !self.assembler.is_empty() && self.pauses() => {}
                _ = tick.tick() => within(TICK_TIMEOUT, self.tick()).await?,
            }
        }
    }

    /// Takes frames as long as they are there without waiting and the assembler has room: while more is ready, a
    /// bigger chunk is worth more than an earlier one.
    async fn take_ready_frames(&mut self) -> Result<(), Error> {
        let mut taken = 0;
        while !self.assembler.is_full() {
            // Without `unconstrained` the runtime would pretend every so often that nothing is ready.
            let Some(frame) = tokio::task::unconstrained(self.stream.next()).now_or_never() else { break };
            let reached = self.assembler.take(frame?)?;
            self.note_reached(reached);
            self.look_up_types().await?;
            taken += 1;
            if taken % FRAMES_IN_A_ROW == 0 {
                tokio::task::yield_now().await;
            }
        }
        self.pace.took(taken);
        Ok(())
    }

    /// A few milliseconds where a new table, or one with composite types, comes by; nothing otherwise.
    async fn look_up_types(&mut self) -> Result<(), Error> {
        if self.assembler.is_at_begin() && self.types.is_due() {
            self.assembler.doubt_types();
        }
        if let Some(wanted) = self.assembler.wanted_types() {
            let found = within(APPEND_TIMEOUT, self.types.describe(&wanted)).await?;
            self.assembler.learn(found)?;
        }
        if let Some(table) = self.assembler.take_misfit() {
            self.types.warn_misfit(table);
        }
        Ok(())
    }

    fn note_reached(&mut self, reached: Option<Lsn>) {
        // While an append runs, what came before its end is not settled yet.
        if let Some(reached) = reached.filter(|_| self.is_settled()) {
            self.reached = self.reached.max(reached);
        }
    }

    /// Whether nothing is being appended, nor a part of a transaction that has not been committed. What is written
    /// meanwhile would be acknowledged, and go if that does.
    fn is_settled(&self) -> bool {
        let committed = matches!(&self.log, Log::Idle(writer) if !writer.is_in_transaction());
        committed && !self.assembler.has_cut_open_transaction()
    }

    fn start_append(&mut self) {
        if !matches!(self.log, Log::Idle(_)) || self.pauses() {
            return;
        }
        let Some(chunk) = self.assembler.cut() else { return };
        let reserving = self.feed.reserve(&chunk);
        self.log = match std::mem::replace(&mut self.log, Log::Moving) {
            Log::Idle(mut writer) => Log::Appending(AbortOnDropHandle::new(tokio::spawn(async move {
                let room = reserving.await;
                let appended = within(APPEND_TIMEOUT, writer.append(chunk)).await?;
                Ok(Ended { writer, appended, room })
            }))),
            other => other,
        };
    }

    /// Whether the next append waits, so that its commit serves more changes.
    fn pauses(&self) -> bool {
        !self.assembler.is_full() && Instant::now() < self.pace.append_at()
    }

    fn appended(&mut self, Ended { writer, appended, room }: Ended) {
        self.log = Log::Idle(writer);
        self.pace.appended(appended.events.len());
        self.counting.appended(&appended.events);
        self.uncommitted.push(appended.events, room, appended.last_seq);
        self.advanced |= appended.advanced;
        let Some(progress) = appended.progress else { return };
        self.durable = self.durable.max(progress);
        self.reached = self.reached.max(progress);
        self.stream.acknowledge(self.durable);
        let now = self.clock.earliest();
        self.figures.send_modify(|figures| self.counting.committed(figures, now));
        self.uncommitted.hand_over(self.source_id, self.feed);
        if std::mem::take(&mut self.advanced) {
            self.assembler.advanced();
        }
    }

    /// Progress without events, and a look at what the stream does not tell.
    async fn tick(&mut self) -> Result<(), Error> {
        let stale = self.names.find_stale(self.assembler.watched_tables()).await?;
        if self.is_settled() && stale.is_some_and(|since| self.reached >= since) {
            self.write_idle_progress().await?;
            return Err(ended("a table has another name, which Postgres tells a new stream only"));
        }
        let passed = self.reached.bytes_since(self.durable);
        let due = passed >= IDLE_STEP && self.idle_written.elapsed() >= TICK * 2;
        if due || passed >= IDLE_STEP_AT_ONCE {
            self.write_idle_progress().await?;
        }
        Ok(())
    }

    async fn write_idle_progress(&mut self) -> Result<(), Error> {
        let Log::Idle(writer) = &self.log else { return Ok(()) };
        if self.reached <= self.durable || !self.is_settled() {
            return Ok(());
        }
        queue::write_progress(&**writer.session(), self.source_id, self.reached).await?;
        self.durable = self.reached;
        self.idle_written = Instant::now();
        self.stream.acknowledge(self.durable);
        Ok(())
    }

    /// Lets the append at work end, appends what whole transactions are left, and writes progress.
    async fn finish(&mut self) -> Result<(), Error> {
        loop {
            if let Log::Appending(_) = self.log {
                let appended = wait_for(&mut self.log).await?;
                self.appended(appended);
            }
            if self.assembler.has_cut_open_transaction() {
                // Its chunks are uncommitted and go with the session; the next start reads it again.
                return Ok(());
            }
            self.pace.hurry();
            self.start_append();
            if let Log::Idle(_) = self.log {
                return within(TICK_TIMEOUT, self.write_idle_progress()).await;
            }
        }
    }
}

/// Bounds a wait for Postgres.
pub(super) async fn within<T, E: Into<Error>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(ended(format!("Postgres did not answer within {} s", limit.as_secs()))),
    }
}

/// The end of the append at work, or of the session that would do the next one.
async fn wait_for(log: &mut Log) -> Result<Ended, Error> {
    match log {
        Log::Appending(appending) => appending.await.map_err(|error| ended(format!("the append failed: {error}")))?,
        Log::Idle(writer) => {
            writer.closed().await;
            Err(ended("the session that writes the queue was closed"))
        }
        Log::Moving => std::future::pending().await,
    }
}
