//! Starting attempts anew: an event's, or those of a trigger's dead events; or giving an event up.

use tokio_postgres::GenericClient;
use tokio_postgres::types::ToSql;

use super::invoke::to_system_time;
use super::{Catalogue, Error, stored};
use crate::model::{EventId, Timestamp};

/// Which dead events of a trigger are meant. Times are texts that Postgres reads, in UTC unless they say otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadFilter {
    /// Those whose last attempt was at this time or later.
    pub since: Option<String>,
    /// Those whose last attempt was before this time.
    pub until: Option<String>,
    /// Those whose last attempt was answered so; 0 for no answer.
    pub status: Option<i32>,
}

impl Catalogue {
    /// Has the dead events of a trigger that the filter takes sent again, each with all its retries, or with `dry_run`
    /// only counts them. Gives how many they are.
    ///
    /// # Errors
    /// [`Error::UnknownTrigger`], [`Error::Range`] and [`Error::Database`]; then nothing is sent again.
    pub async fn redeliver_dead(&self, name: &str, filter: &DeadFilter, dry_run: bool) -> Result<i64, Error> {
        let mut client = self.queue.get().await?;
        let transaction = client.transaction().await?;
        let source_id = self.queue_id(&*transaction).await?;
        let trigger = stored::find(&transaction, source_id, name).await?;
        trigger.ok_or_else(|| Error::UnknownTrigger(name.to_owned()))?;
        let DeadFilter { since, until, status } = filter;
        let parameters: [&(dyn ToSql + Sync); 5] = [&name, since, until, status, &self.source.name];
        if dry_run {
            // Nobody has to wait while they are counted.
            transaction.commit().await?;
            let counted = client.query_one(include_str!("../../sql/dead_count.sql"), &parameters).await;
            return Ok(counted.map_err(Error::of_range)?.get(0));
        }
        let redelivered = transaction.query_one(include_str!("../../sql/dead_redeliver.sql"), &parameters).await;
        let count = redelivered.map_err(Error::of_range)?.get(0);
        transaction.commit().await?;
        Ok(count)
    }

    /// Has an event delivered again, with its count of retries at 0. One that waits for a retry keeps waiting for its
    /// time, one that was never attempted is delivered in its turn, and one of a deleted trigger stays as it is; all of
    /// them are successes, as in Hasura (reference/hasura.md, 1.5).
    ///
    /// # Errors
    /// [`Error::EventNotFound`], [`Error::EventBusy`] and [`Error::Database`].
    pub async fn redeliver(&self, event_id: &str) -> Result<(), Error> {
        let client = self.queue.get().await?;
        let id = self.find_event(&**client, event_id).await?;
        // Whether it is sent at once makes no difference here, as in Hasura.
        client.execute(include_str!("../../sql/event_redeliver.sql"), &[&id]).await?;
        self.look_at_deferred().await;
        Ok(())
    }

    /// Gives up an event that is held or waits for a retry, so that those behind it go on. It is dead then, and can be
    /// redelivered.
    ///
    /// # Errors
    /// [`Error::EventNotFound`], [`Error::EventBusy`], [`Error::EventNotHeld`] and [`Error::Database`].
    pub async fn skip(&self, event_id: &str) -> Result<(), Error> {
        let client = self.queue.get().await?;
        let id = self.find_event(&**client, event_id).await?;
        let skipped: bool = client.query_one(include_str!("../../sql/event_skip.sql"), &[&id]).await?.get(0);
        if !skipped {
            return Err(Error::EventNotHeld);
        }
        self.look_at_deferred().await;
        Ok(())
    }

    /// An event of this source that is not under way.
    async fn find_event(&self, client: &impl GenericClient, event_id: &str) -> Result<EventId, Error> {
        let id: EventId = event_id.parse().map_err(|_| Error::EventNotFound)?;
        let millis = millis_of(id).ok_or(Error::EventNotFound)?;
        let from = to_system_time(Timestamp(millis * 1000));
        let to = to_system_time(Timestamp((millis + 1) * 1000));
        let source_id = self.queue_id(client).await?;
        let find = include_str!("../../sql/event_find.sql");
        client.query_opt(find, &[&id, &from, &to, &source_id]).await?.ok_or(Error::EventNotFound)?;
        match &self.delivery {
            Some(delivery) if delivery.is_in_flight(id).await => Err(Error::EventBusy),
            _ => Ok(id),
        }
    }

    async fn look_at_deferred(&self) {
        if let Some(delivery) = &self.delivery {
            delivery.deferred_added().await;
        }
    }
}

/// The milliseconds since 1970 in a UUIDv7. No event has an id of another shape.
pub(super) fn millis_of(id: EventId) -> Option<i64> {
    if id.get_version_num() != 7 {
        return None;
    }
    let mut bytes = [0; 8];
    bytes[2..].copy_from_slice(&id.as_bytes()[..6]);
    Some(i64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_version_7_holds_a_time() {
        let id = |text: &str| text.parse::<EventId>().expect("a UUID");
        assert_eq!(millis_of(id("ad4f698f-a14e-4a6d-a01b-38cd252dd8bf")), None);
        assert_eq!(millis_of(id("ffffffff-ffff-7fff-bfff-ffffffffffff")), Some(0xffff_ffff_ffff));
    }
}
