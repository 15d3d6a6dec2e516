//! Owning lanes: the right to deliver.

use uuid::Uuid;

use super::Error;
use crate::model::LANES;
use crate::postgres::Session;

/// What came of trying to own all lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// Another session owns some.
    No,
    /// All are this session's, and nobody else had any since this node had them last.
    Again,
    /// All are this session's; others may have worked on them since.
    Anew,
}

/// Tries to own every lane, for as long as this session lives. Locks that were got stay with the session also where
/// others are missing, so that two nodes that try do not both give up: the lower lanes decide.
///
/// # Errors
/// What Postgres said.
pub async fn try_acquire_lanes(session: &Session, node: Uuid, held: &mut u8) -> Result<Acquired, Error> {
    while *held < LANES {
        let row = session.query_one(include_str!("../../sql/lane_lock.sql"), &[&i32::from(*held)]).await?;
        if !row.get::<_, bool>(0) {
            return Ok(Acquired::No);
        }
        *held += 1;
    }
    let row = session.query_one(include_str!("../../sql/lane_take.sql"), &[&node]).await?;
    Ok(if row.get(0) { Acquired::Again } else { Acquired::Anew })
}
