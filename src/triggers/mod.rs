//! The catalogue of triggers: create, replace, delete, pause, resume, invoke, redeliver, replay, backfill.

mod backfill;
mod create;
mod delete;
mod error;
mod invoke;
mod pause;
mod publication;
mod published;
mod redeliver;
mod replay;
mod resolvable;
mod stored;
mod table;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

pub use backfill::BackfillStatus;
pub use error::{Error, Inconsistency, Unwatchable};
pub use redeliver::DeadFilter;
pub use replay::{ReplayFrom, ReplayRequest, ReplayStatus};

use tokio_postgres::GenericClient;

use crate::delivery;
use crate::model::Environment;
use crate::postgres::Pool;
use crate::queue;

/// The running delivery answers within milliseconds; where it does not, the caller is not kept for it: it finds the
/// change by its slow poll.
const DELIVERY_ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Nor is it for a queue that is away.
const QUEUE_ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// The source whose tables are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceInfo {
    /// Its name in the API; `default` unless set.
    pub name: String,
    /// The publication its slot streams.
    pub publication: String,
}

/// What `create` does with a table's replica identity (`--replica-identity`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplicaIdentityPolicy {
    /// Set it to FULL, so that the old row is in the WAL.
    #[default]
    Full,
    /// Leave it; refuse a table whose UPDATE and DELETE would fail once it is published.
    Keep,
}

/// The catalogue of one source. Cheap to clone.
#[derive(Clone)]
pub struct Catalogue {
    /// The source's database: its tables and its catalogue.
    pool: Pool,
    /// The queue's database, which may be the same.
    queue: Pool,
    source: SourceInfo,
    replica_identity: ReplicaIdentityPolicy,
    delivery: Option<delivery::Handle>,
    environment: Environment,
    /// A trigger was made, replaced or deleted here.
    changed: Arc<Notify>,
}

impl Catalogue {
    /// A catalogue over the pool's database, which holds the source's tables, with its events in `queue`. `delivery` is
    /// told of changes, when it runs in this process. Placeholders are resolved from this process' environment.
    pub fn new(
        pool: Pool,
        queue: Pool,
        source: SourceInfo,
        replica_identity: ReplicaIdentityPolicy,
        delivery: Option<delivery::Handle>,
    ) -> Self {
        Catalogue {
            pool,
            queue,
            source,
            replica_identity,
            delivery,
            environment: Environment::process(),
            changed: Arc::default(),
        }
    }

    /// What requests call the source.
    pub fn source_name(&self) -> &str {
        &self.source.name
    }

    /// The source's id in its own database.
    async fn catalogue_id(&self, source: &impl GenericClient) -> Result<i16, Error> {
        self.id_in(source).await
    }

    /// The source's id in the queue.
    async fn queue_id(&self, queue: &impl GenericClient) -> Result<i16, Error> {
        self.id_in(queue).await
    }

    async fn id_in(&self, client: &impl GenericClient) -> Result<i16, Error> {
        let not_set_up = || Error::NotSetUp(self.source.name.clone());
        match queue::source_id(client, &self.source.name).await.map_err(Error::from) {
            Ok(id) => id.ok_or_else(not_set_up),
            // There is no schema walhook, or none of its tables.
            Err(error) if matches!(error.sqlstate(), Some("3F000" | "42P01")) => Err(not_set_up()),
            Err(error) => Err(error),
        }
    }

    /// Brings the queue's copy of what has this name up to date. Capture does the same when it passes the change in the
    /// WAL, so a failure only means that deliveries follow later.
    async fn tell_queue(&self, name: &str) {
        let failure = match tokio::time::timeout(QUEUE_ANSWERS_WITHIN, self.copy_to_queue(name)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", QUEUE_ANSWERS_WITHIN.as_secs()),
        };
        tracing::warn!(trigger = name, "deliveries follow the change once capture passes it: {failure}");
    }

    async fn copy_to_queue(&self, name: &str) -> Result<(), Error> {
        let versions = {
            let source = self.pool.get().await?;
            queue::read_catalogue(&**source, self.catalogue_id(&**source).await?, Some(name)).await?
        };
        let mut session = self.queue.get().await?;
        let transaction = session.transaction().await?;
        queue::adopt(&*transaction, self.queue_id(&*transaction).await?, &versions).await?;
        Ok(transaction.commit().await?)
    }

    /// Lets the upkeep look at the tables, the queue have the change, and the running delivery load it.
    async fn tell(&self, name: &str) {
        self.changed.notify_one();
        self.tell_queue(name).await;
        self.tell_delivery().await;
    }

    /// Returns once this process' delivery uses the triggers as they are now.
    async fn tell_delivery(&self) {
        let Some(delivery) = &self.delivery else { return };
        if tokio::time::timeout(DELIVERY_ANSWERS_WITHIN, delivery.catalogue_changed()).await.is_err() {
            tracing::warn!("delivery did not load the changed triggers within 5 s; it will by its next poll");
        }
    }
}
