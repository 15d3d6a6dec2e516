//! Owning lanes: the right to deliver.

use tokio_postgres::GenericClient;
use uuid::Uuid;

use super::row::PgTime;
use super::{Error, Notice, tell};
use crate::model::{LANES, Lane, LaneSet, Timestamp};

/// Lanes that were got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// All of them.
    pub lanes: LaneSet,
    /// Since when they are this node's: where it is the time that was told before, nobody else had the lane meanwhile.
    pub since: [Option<Timestamp>; LANES as usize],
}

/// Tries to own some of these lanes, at most so many, for as long as this session lives. Those that another session
/// owns are passed over, not waited for.
///
/// # Errors
/// What Postgres said.
pub async fn take_lanes(
    session: &impl GenericClient,
    node: Uuid,
    wanted: LaneSet,
    most: usize,
) -> Result<Taken, Error> {
    let mut lanes = lock_lanes(session, wanted, most).await?;
    if lanes.is_empty() {
        return Ok(Taken::default());
    }
    // A session that ends lets its locks go one by one, perhaps while this one looked at them. All of them are to be
    // had together: those that come later count as having been somebody's meanwhile.
    lanes = lanes.or(lock_lanes(session, wanted.without(lanes), most - lanes.len()).await?);
    let mut taken = Taken { lanes, ..Taken::default() };
    for row in session.query(include_str!("../../sql/lane_take.sql"), &[&node, &lanes.numbers()]).await? {
        let lane = Lane::try_from(row.get::<_, i16>(0)).ok().map(usize::from);
        if let Some(since) = lane.and_then(|lane| taken.since.get_mut(lane)) {
            *since = Some(row.get::<_, PgTime>(1).0);
        }
    }
    Ok(taken)
}

async fn lock_lanes(session: &impl GenericClient, wanted: LaneSet, most: usize) -> Result<LaneSet, Error> {
    let mut lanes = LaneSet::NONE;
    for lane in wanted.iter() {
        if lanes.len() >= most {
            break;
        }
        let row = session.query_one(include_str!("../../sql/lane_lock.sql"), &[&i32::from(lane)]).await?;
        if row.get(0) {
            lanes.insert(lane);
        }
    }
    Ok(lanes)
}

/// Gives lanes back, and tells the others.
///
/// # Errors
/// What Postgres said.
pub async fn give_back_lanes(session: &impl GenericClient, lanes: LaneSet) -> Result<(), Error> {
    session.execute(include_str!("../../sql/lane_unlock.sql"), &[&lanes.numbers()]).await?;
    tell(session, Notice::Lanes).await
}
