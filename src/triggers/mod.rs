//! The catalogue of triggers: create, replace, delete, invoke, redeliver.

mod create;
mod delete;
mod error;
mod invoke;
mod publication;
mod published;
mod redeliver;
mod resolvable;
mod stored;
mod table;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

pub use error::{Error, Inconsistency, Unwatchable};

use crate::delivery;
use crate::model::Environment;
use crate::postgres::Pool;

/// The running delivery answers within milliseconds; where it does not, the caller is not kept for it: it finds the
/// change by its slow poll.
const DELIVERY_ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// The source whose tables are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceInfo {
    /// `walhook.source.id`.
    pub id: i16,
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
    pool: Pool,
    source: SourceInfo,
    replica_identity: ReplicaIdentityPolicy,
    delivery: Option<delivery::Handle>,
    environment: Environment,
    /// A trigger was made, replaced or deleted here.
    changed: Arc<Notify>,
}

impl Catalogue {
    /// A catalogue over the pool's database, which holds the source's tables and schema `walhook`. `delivery` is told
    /// of changes, when it runs in this process. Placeholders are resolved from this process' environment.
    pub fn new(
        pool: Pool,
        source: SourceInfo,
        replica_identity: ReplicaIdentityPolicy,
        delivery: Option<delivery::Handle>,
    ) -> Self {
        Catalogue {
            pool,
            source,
            replica_identity,
            delivery,
            environment: Environment::process(),
            changed: Arc::default(),
        }
    }

    /// Whether a request may name this source.
    ///
    /// # Errors
    /// [`Error::UnknownSource`].
    pub fn check_source(&self, name: &str) -> Result<(), Error> {
        if name == self.source.name { Ok(()) } else { Err(Error::UnknownSource(name.to_owned())) }
    }

    /// Lets the upkeep look at the tables, and the running delivery load the definitions anew.
    async fn tell(&self) {
        self.changed.notify_one();
        let Some(delivery) = &self.delivery else { return };
        if tokio::time::timeout(DELIVERY_ANSWERS_WITHIN, delivery.catalogue_changed()).await.is_err() {
            tracing::warn!("delivery did not load the changed triggers within 5 s; it will by its next poll");
        }
    }
}
