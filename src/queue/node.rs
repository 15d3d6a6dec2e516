//! The nodes that deliver: each says that it lives, sees who else does, and takes for dead who was silent for too long.

use std::time::Duration;

use tokio_postgres::{GenericClient, Statement};
use uuid::Uuid;

use super::row::PgTime;
use super::{Error, Notice, tell};
use crate::model::Timestamp;
use crate::postgres::{Session, Settings, connect};

/// What a node says of itself.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its own, as long as its process lives.
    pub id: Uuid,
    /// The machine's name.
    pub host: String,
    /// Its process on that machine.
    pub process_id: u32,
    /// How long it may be silent before others take it for dead.
    pub timeout: Duration,
    /// Whether it is to have lanes.
    pub delivers: bool,
}

/// A node as the others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Which one.
    pub id: Uuid,
    /// How long it has been silent, by the server's clock.
    pub silent: Duration,
    /// How long it may be.
    pub timeout: Duration,
    /// Whether it is to have lanes.
    pub delivers: bool,
    /// It is to have no lanes any more.
    pub leaving: bool,
    /// When it was registered: another time than before where it was taken for dead meanwhile.
    pub registered_at: Timestamp,
}

/// What a heartbeat was answered with.
#[derive(Clone, Debug)]
pub struct Beat {
    /// All nodes that are registered, in the order in which they started. This one is not among them where it is new
    /// or was taken for dead.
    pub peers: Vec<Peer>,
    /// What the server's clock showed meanwhile; none where there are no nodes.
    pub server_time: Option<Timestamp>,
}

/// A node that was taken for dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buried {
    /// Its machine.
    pub host: String,
    /// Its process there.
    pub process_id: i32,
    /// How many of its sessions were still there and had to be ended.
    pub ended: i64,
}

/// A session of a node's own for its heartbeats.
pub struct Registry {
    session: Session,
    node: Node,
    beat: Statement,
}

impl Registry {
    /// Connects.
    ///
    /// # Errors
    /// What Postgres said.
    pub async fn open(database: &Settings, node: Node) -> Result<Registry, Error> {
        let session = connect(database, "walhook node").await?;
        own_session(&*session, node.id, Purpose::Heartbeat).await?;
        let beat = session.prepare(include_str!("../../sql/node_beat.sql")).await?;
        Ok(Registry { session, node, beat })
    }

    /// Says that this node lives, and sees who else does.
    ///
    /// # Errors
    /// What Postgres said.
    pub async fn beat(&self, leaving: bool) -> Result<Beat, Error> {
        let rows = self.session.query(&self.beat, &[&self.node.id, &leaving]).await?;
        let peer = |row: &tokio_postgres::Row| Peer {
            id: row.get(0),
            silent: Duration::from_secs_f64(row.get::<_, f64>(1).max(0.0)),
            timeout: Duration::from_millis(u64::try_from(row.get::<_, i32>(2)).unwrap_or(0)),
            delivers: row.get(3),
            leaving: row.get(4),
            registered_at: row.get::<_, PgTime>(6).0,
        };
        let server_time = rows.first().map(|row| row.get::<_, PgTime>(5).0);
        Ok(Beat { peers: rows.iter().map(peer).collect(), server_time })
    }

    /// Takes nodes of this machine for dead that have no session left, and gives their processes. To be asked by a
    /// process that starts, before it registers.
    ///
    /// # Errors
    /// What Postgres said.
    pub async fn replace(&self) -> Result<Vec<i32>, Error> {
        let rows = self.session.query(include_str!("../../sql/node_replace.sql"), &[&self.node.host]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Registers this node, and tells the others.
    ///
    /// # Errors
    /// What Postgres said.
    pub async fn register(&self) -> Result<(), Error> {
        let Node { id, host, process_id, timeout, delivers } = &self.node;
        let process_id = i32::try_from(*process_id).unwrap_or(0);
        let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let sql = include_str!("../../sql/node_register.sql");
        self.session.execute(sql, &[id, host, &process_id, &timeout, delivers]).await?;
        tell(&*self.session, Notice::Lanes).await
    }

    /// Takes for dead whoever was silent for too long, so that their lanes are free.
    ///
    /// # Errors
    /// What Postgres said: such as that this role may not end another role's sessions.
    pub async fn bury(&self) -> Result<Vec<Buried>, Error> {
        let rows = self.session.query(include_str!("../../sql/node_bury.sql"), &[&self.node.id]).await?;
        let buried = |row: &tokio_postgres::Row| Buried { host: row.get(0), process_id: row.get(1), ended: row.get(2) };
        Ok(rows.iter().map(buried).collect())
    }

    /// Ends in order, and tells the others.
    ///
    /// # Errors
    /// What Postgres said.
    pub async fn leave(&self) -> Result<(), Error> {
        self.session.execute(include_str!("../../sql/node_leave.sql"), &[&self.node.id]).await?;
        tell(&*self.session, Notice::Lanes).await
    }

    /// Tells the others that there are lanes to be taken, or that some may have to be given back.
    ///
    /// # Errors
    /// What Postgres said.
    pub async fn tell(&self, notice: Notice) -> Result<(), Error> {
        tell(&*self.session, notice).await
    }
}

/// What a session of a node is for; what it owns, it owns as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Lanes.
    Lanes,
    /// The log of a source.
    Source(i16),
    /// Nothing: it says that the node lives.
    Heartbeat,
}

/// Names a session of a node before it owns anything, so that others can end it, and gives when the node was
/// registered. `None` where it is not: it is new, or was taken for dead.
///
/// # Errors
/// What Postgres said.
pub async fn own_session(
    client: &impl GenericClient,
    node: Uuid,
    purpose: Purpose,
) -> Result<Option<Timestamp>, Error> {
    let purpose = match purpose {
        Purpose::Lanes => "lanes".to_owned(),
        Purpose::Source(id) => format!("source {id}"),
        Purpose::Heartbeat => "heartbeat".to_owned(),
    };
    let row = client.query_opt(include_str!("../../sql/node_session.sql"), &[&node, &purpose]).await?;
    Ok(row.map(|row| row.get::<_, PgTime>(0).0))
}
