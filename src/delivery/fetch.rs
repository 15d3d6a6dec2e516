//! The dispatcher's reads from the database, and what it tells operators there; each a task of its own that brings its
//! result back.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio_postgres::Client;
use tracing::{debug, warn};
use uuid::Uuid;

use crate::model::{EventId, Lane, LaneSet, RowHash, Timestamp};
use crate::postgres::{Pool, Pooled};
use crate::queue::{self, Backlog, Bounds, Deferred, DueRoom, EndpointDown, Floor, LiveTrigger, Stretch};

/// What a read brought.
pub(super) enum Fetched {
    /// A trigger's next events.
    Backlog { trigger_id: Uuid, backlog: Backlog },
    /// They could not be read.
    BacklogFailed { trigger_id: Uuid },
    /// Which of these triggers have something to be read; `None` where that could not be found out.
    News { asked: Vec<Stretch>, found: Option<HashSet<Uuid>> },
    /// Due deferred events, when the next one is due, and the triggers that were given as many as they had room for.
    Due { events: Vec<Deferred>, next: Option<Timestamp>, filled: Vec<Uuid> },
    /// They could not be read.
    DueFailed,
    /// The triggers, and for those asked about where to go on.
    Catalogue(Vec<Loaded>),
    /// They could not be read.
    CatalogueFailed,
    /// Each source's last seq in the log.
    Heads(Vec<(i16, i64)>),
    /// The database was told which endpoints are down, or could not be.
    ToldDown { done: bool },
}

/// A trigger with its place in the log.
pub(super) struct Loaded {
    pub(super) trigger: LiveTrigger,
    /// Where to go on; `None` for a trigger that was known already.
    pub(super) place: Option<Place>,
}

/// Where a trigger goes on after lanes were got or given back.
#[derive(Debug)]
pub(super) struct Place {
    /// The lanes that it is to take events of.
    pub(super) lanes: LaneSet,
    /// Their cursors: what is not after them is done. For other lanes there is no end of what is to be left alone.
    pub(super) floor: Floor,
    /// Events after the cursors that are done or deferred.
    pub(super) dealt_with: HashSet<i64>,
    /// Rows whose later events wait for one that is deferred.
    pub(super) held: Vec<RowHash>,
}

/// A failed read is asked for again at once, so the failure itself takes this long.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// What takes this long is a session that is dead without saying so.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// A session of the pool that is closed, not given back, unless what it was lent for came to its end: whoever had it
/// next would wait for the rest of that.
struct Lent(Option<Pooled>);

impl Lent {
    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        drop(self.0.take().map(Pooled::take));
    }
}

/// Reads with a session of the pool.
async fn with_session<T>(
    pool: &Pool,
    read: impl AsyncFnOnce(&mut Client) -> Result<T, queue::Error>,
) -> Result<T, Failure> {
    let (result, session) = in_session(pool, read).await?;
    session.give_back();
    Ok(result)
}

/// As [`with_session`], and gives the session too.
async fn in_session<T>(
    pool: &Pool,
    read: impl AsyncFnOnce(&mut Client) -> Result<T, queue::Error>,
) -> Result<(T, Lent), Failure> {
    let mut session = Lent(Some(pool.get().await.map_err(queue::Error::from)?));
    let client = session.0.as_mut().expect("it was lent a moment ago");
    let result = tokio::time::timeout(READ_TIMEOUT, read(client)).await.map_err(|_| Failure::TimedOut)?;
    Ok((result?, session))
}

/// Why a read failed. Each is tried again.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Queue(#[from] queue::Error),
    #[error("Postgres did not answer within {} s", READ_TIMEOUT.as_secs())]
    TimedOut,
}

async fn failed(what: &str, error: &Failure) {
    warn!("{what} could not be read: {error}; trying again");
    tokio::time::sleep(FAILURE_PAUSE).await;
}

pub(super) async fn backlog(pool: Pool, trigger_id: Uuid, source_id: i16, bounds: Bounds) -> Fetched {
    let read = async |client: &mut Client| queue::read_backlog(client, trigger_id, source_id, bounds).await;
    match in_session(&pool, read).await {
        Ok((backlog, session)) => {
            if !backlog.session_is_busy {
                session.give_back();
            }
            Fetched::Backlog { trigger_id, backlog }
        }
        Err(error) => {
            failed("the event log", &error).await;
            Fetched::BacklogFailed { trigger_id }
        }
    }
}

pub(super) async fn news(pool: Pool, asked: Vec<Stretch>) -> Fetched {
    let read = async |client: &mut Client| queue::triggers_with_events(&*client, &asked).await;
    let found = match with_session(&pool, read).await {
        Ok(found) => Some(found),
        Err(error) => {
            failed("the event log", &error).await;
            None
        }
    };
    Fetched::News { asked, found }
}

pub(super) async fn due(
    pool: Pool,
    room: Vec<DueRoom>,
    in_hand: Vec<EventId>,
    lanes: LaneSet,
    now: Timestamp,
) -> Fetched {
    let read = async |client: &mut Client| {
        let events = queue::due(&*client, &room, now, &in_hand, lanes).await?;
        // Not counting what was just fetched, and not for triggers whose room it filled.
        let mut held = in_hand.clone();
        held.extend(events.iter().map(|deferred| deferred.logged.id()));
        let mut fetched: HashMap<Uuid, i64> = HashMap::new();
        if !events.is_empty() {
            debug!(events = events.len(), "deferred events were read");
        }
        for deferred in events.iter().filter(|deferred| !deferred.follows) {
            *fetched.entry(deferred.logged.event.trigger_id).or_default() += 1;
        }
        let is_open = |room: &DueRoom| fetched.get(&room.trigger_id).copied().unwrap_or(0) < room.due;
        let (open, filled): (Vec<DueRoom>, Vec<DueRoom>) = room.iter().partition(|room| is_open(room));
        let [open, filled] = [open, filled].map(|rooms| rooms.iter().map(|room| room.trigger_id).collect::<Vec<_>>());
        let next = queue::next_due(&*client, &open, &held, lanes).await?;
        Ok((events, next, filled))
    };
    match with_session(&pool, read).await {
        Ok((events, next, filled)) => Fetched::Due { events, next, filled },
        Err(error) => {
            failed("deferred events", &error).await;
            Fetched::DueFailed
        }
    }
}

/// Loads the triggers; those not in `known` with their places in these lanes.
pub(super) async fn catalogue(pool: Pool, known: HashSet<Uuid>, lanes: LaneSet) -> Fetched {
    match with_session(&pool, async |client: &mut Client| load(client, &known, lanes).await).await {
        Ok(loaded) => Fetched::Catalogue(loaded),
        Err(error) => {
            failed("the triggers", &error).await;
            Fetched::CatalogueFailed
        }
    }
}

async fn load(client: &Client, known: &HashSet<Uuid>, lanes: LaneSet) -> Result<Vec<Loaded>, queue::Error> {
    let triggers = queue::triggers(client).await?;
    let mut cursors = None;
    let mut loaded = Vec::with_capacity(triggers.len());
    for trigger in triggers {
        let mut place = None;
        let (id, source_id) = (trigger.trigger.id, trigger.source_id);
        if !known.contains(&id) {
            if cursors.is_none() {
                cursors = Some(queue::read_cursors(client).await?);
            }
            let cursors = cursors.as_ref().and_then(|all| all.get(&id)).copied().unwrap_or_default();
            let end = |lane| if lanes.contains(lane) { cursors[usize::from(lane)] } else { i64::MAX };
            let floor: Floor = std::array::from_fn(|lane| end(lane as Lane));
            let dealt_with = queue::dealt_with_after(client, id, source_id, &floor).await?;
            let held = queue::held_rows(client, id, lanes).await?;
            place = Some(Place { lanes, floor, dealt_with, held });
        }
        loaded.push(Loaded { trigger, place });
    }
    Ok(loaded)
}

pub(super) async fn heads(pool: Pool) -> Fetched {
    match with_session(&pool, async |client: &mut Client| queue::heads(&*client).await).await {
        Ok(heads) => Fetched::Heads(heads),
        Err(error) => {
            failed("the event log's end", &error).await;
            Fetched::Heads(Vec::new())
        }
    }
}

pub(super) async fn tell_down(pool: Pool, node: Uuid, down: Vec<EndpointDown>) -> Fetched {
    let told =
        with_session(&pool, async |client: &mut Client| queue::write_endpoints_down(&*client, node, &down).await).await;
    if let Err(error) = &told {
        warn!("walhook.endpoints does not say which endpoints are down: {error}; trying again");
        tokio::time::sleep(FAILURE_PAUSE).await;
    }
    Fetched::ToldDown { done: told.is_ok() }
}
