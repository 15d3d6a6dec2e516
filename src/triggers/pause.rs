//! Holding a trigger's events, and letting them go on.

use super::{Catalogue, Error, stored};

impl Catalogue {
    /// Holds a trigger's events: they go on to be logged and wait. Requests under way end; once this returns, this
    /// process starts no more. A trigger that is paused already stays so.
    ///
    /// # Errors
    /// [`Error::UnknownTrigger`] and [`Error::Database`].
    pub async fn pause(&self, name: &str) -> Result<(), Error> {
        self.set_pause(name, include_str!("../../sql/trigger_pause.sql")).await
    }

    /// Lets a trigger's events go on. One that is not paused is left as it is.
    ///
    /// # Errors
    /// [`Error::UnknownTrigger`] and [`Error::Database`].
    pub async fn resume(&self, name: &str) -> Result<(), Error> {
        self.set_pause(name, include_str!("../../sql/trigger_resume.sql")).await
    }

    async fn set_pause(&self, name: &str, sql: &str) -> Result<(), Error> {
        let mut client = self.queue.get().await?;
        let transaction = client.transaction().await?;
        let source_id = self.queue_id(&*transaction).await?;
        let trigger = stored::find(&transaction, source_id, name).await?;
        trigger.ok_or_else(|| Error::UnknownTrigger(name.to_owned()))?;
        transaction.execute(sql, &[&name, &self.source.name]).await?;
        transaction.commit().await?;
        // A queue of one session may be what delivery loads the triggers with.
        drop(client);
        self.tell_delivery().await;
        Ok(())
    }
}
