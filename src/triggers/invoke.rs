//! Events that a caller makes by hand.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Catalogue, Error, stored};
use crate::model::{EventId, Timestamp, trigger_lane};
use crate::queue;

impl Catalogue {
    /// Makes an event of this trigger with this payload as its new row, due now. Returns the event's id.
    ///
    /// # Errors
    /// [`Error::UnknownTrigger`], [`Error::ManualDisabled`] and [`Error::Database`].
    pub async fn invoke(&self, name: &str, payload: &RawValue) -> Result<EventId, Error> {
        let mut client = self.queue.get().await?;
        let now = queue::server_time(&**client).await?;
        // Before the transaction: the lock for making a partition is not kept over it.
        queue::ensure_partitions(&**client, &[now.unix_day()]).await?;
        let transaction = client.transaction().await?;
        let source_id = self.queue_id(&*transaction).await?;
        let trigger = stored::find(&transaction, source_id, name).await?;
        let trigger = trigger.ok_or_else(|| Error::UnknownTrigger(name.to_owned()))?;
        if !trigger.definition.enable_manual {
            return Err(Error::ManualDisabled);
        }
        let id = new_event_id(now);
        let lane = i16::from(trigger_lane(trigger.id));
        let subject = &trigger.definition.subject;
        let schema = subject.table().map(|table| table.schema.as_str());
        let name = subject.table().map(|table| table.name.as_str());
        let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&to_system_time(now), &lane, &id, &trigger.id, &schema, &name, &payload.get(), &subject.event_type()];
        transaction.execute(include_str!("../../sql/event_invoke.sql"), values).await?;
        transaction.commit().await?;
        if let Some(delivery) = &self.delivery {
            delivery.deferred_added().await;
        }
        Ok(id)
    }
}

/// An id in the shape of a UUIDv7, which other events have too: an event is found by the milliseconds in its id, so
/// they must be those of its commit time.
fn new_event_id(committed_at: Timestamp) -> EventId {
    let random = Uuid::new_v4().into_bytes();
    let mut ten = [0; 10];
    // Bytes 6 and 8 of a random UUID hold its version and variant, so they are left out.
    ten[..6].copy_from_slice(&random[..6]);
    ten[6..].copy_from_slice(&random[9..13]);
    uuid::Builder::from_unix_timestamp_millis(committed_at.unix_millis(), &ten).into_uuid()
}

/// For the driver. Times before 1970 do not occur: no Postgres ran then.
pub(super) fn to_system_time(moment: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(u64::try_from(moment.0).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_holds_its_events_milliseconds() {
        let id = new_event_id(Timestamp(1_536_131_661_601_701));
        assert_eq!(id.get_version_num(), 7);
        assert_eq!(crate::triggers::redeliver::millis_of(id), Some(1_536_131_661_601));
        assert_ne!(id, new_event_id(Timestamp(1_536_131_661_601_701)));
    }
}
