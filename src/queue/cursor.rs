//! How far each lane of each trigger was worked off.

use std::collections::HashMap;

use tokio_postgres::GenericClient;
use uuid::Uuid;

use super::Error;
use crate::model::{LANES, Lane};

/// A place in the log for each lane. What is not after it is done, or is not this node's to do.
pub type Floor = [i64; LANES as usize];

/// A lane's new place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CursorMove {
    /// The trigger.
    pub trigger_id: Uuid,
    /// The lane.
    pub lane: Lane,
    /// Every event of the lane up to this one is done or deferred.
    pub seq: i64,
}

/// Every trigger's cursors, by lane; 0 where nothing was worked off.
///
/// # Errors
/// What Postgres said.
pub async fn read_cursors(client: &impl GenericClient) -> Result<HashMap<Uuid, Floor>, Error> {
    let mut cursors: HashMap<Uuid, Floor> = HashMap::new();
    for row in client.query(include_str!("../../sql/cursor_read.sql"), &[]).await? {
        let lane: i16 = row.get(1);
        let lanes = cursors.entry(row.get(0)).or_default();
        if let Some(seq) = usize::try_from(lane).ok().and_then(|lane| lanes.get_mut(lane)) {
            *seq = row.get(2);
        }
    }
    Ok(cursors)
}

/// Moves cursors on.
///
/// # Errors
/// What Postgres said.
pub async fn write_cursors(client: &impl GenericClient, moves: &[CursorMove]) -> Result<(), Error> {
    if moves.is_empty() {
        return Ok(());
    }
    let triggers: Vec<Uuid> = moves.iter().map(|cursor| cursor.trigger_id).collect();
    let lanes: Vec<i16> = moves.iter().map(|cursor| i16::from(cursor.lane)).collect();
    let seqs: Vec<i64> = moves.iter().map(|cursor| cursor.seq).collect();
    client.execute(include_str!("../../sql/cursor_write.sql"), &[&triggers, &lanes, &seqs]).await?;
    Ok(())
}
