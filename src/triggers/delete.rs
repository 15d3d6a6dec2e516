//! Deleting triggers, and undoing what was changed on their tables.

use deadpool_postgres::Transaction;
use postgres_protocol::escape::escape_identifier;
use tokio_postgres::Row;

use super::publication::{LOCK_WAIT_SHORT, set_lock_wait};
use super::stored;
use super::table::quote;
use super::{Catalogue, Error};
use crate::model::TableName;
use crate::postgres::LOCK_NOT_AVAILABLE;

impl Catalogue {
    /// Ends a trigger: what is pending for it is not delivered. When no other trigger watches the table, it leaves the
    /// publication and gets its replica identity back, as far as walhook changed them; where that is not possible now,
    /// a warning is logged and the next deletion tries again.
    ///
    /// # Errors
    /// [`Error::UnknownTrigger`] and [`Error::Database`].
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        let mut client = self.pool.get().await?;
        let mut transaction = client.transaction().await?;
        stored::lock_catalogue(&transaction).await?;
        let source_id = self.catalogue_id(&*transaction).await?;
        let trigger = stored::find(&transaction, source_id, name).await?;
        let trigger = trigger.ok_or_else(|| Error::UnknownTrigger(name.to_owned()))?;
        let version = trigger.version + 1;
        transaction.execute(include_str!("../../sql/trigger_delete.sql"), &[&trigger.id, &version]).await?;
        let definition = serde_json::to_string(&trigger.definition)?;
        stored::insert_version(
            &transaction,
            (trigger.id, version),
            source_id,
            None,
            &definition,
            &self.source.publication,
        )
        .await?;
        self.undo_unused(&mut transaction, source_id).await?;
        transaction.commit().await?;
        // To tell takes sessions of the same pool.
        drop(client);
        self.tell(name).await;
        Ok(())
    }

    /// Undoes what was changed on tables that nothing watches any more: this trigger's, its partitions, and those an
    /// earlier deletion had to leave.
    async fn undo_unused(&self, transaction: &mut Transaction<'_>, source_id: i16) -> Result<(), Error> {
        let sql = include_str!("../../sql/watched_table_unused.sql");
        let unused = transaction.query(sql, &[&source_id, &self.source.publication]).await?;
        for row in unused {
            let relation: u32 = row.get("relation");
            let savepoint = transaction.transaction().await?;
            match self.undo(&savepoint, &row).await {
                Ok(()) => {
                    let forget = include_str!("../../sql/watched_table_forget.sql");
                    savepoint.execute(forget, &[&source_id, &relation]).await?;
                    savepoint.commit().await?;
                }
                Err(error) => {
                    savepoint.rollback().await?;
                    let table: Option<&str> = row.get("relname");
                    tracing::warn!(
                        table, %error,
                        "the table stays in the publication with its replica identity; the next deletion of a trigger \
                         tries again"
                    );
                    // A lock that others hold is waited for once, not for each of a thousand partitions.
                    if error.sqlstate() == Some(LOCK_NOT_AVAILABLE) {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    async fn undo(&self, savepoint: &Transaction<'_>, row: &Row) -> Result<(), Error> {
        // Without a schema the table is gone: there is nothing to undo.
        let Some(schema) = row.get::<_, Option<String>>("nspname") else { return Ok(()) };
        set_lock_wait(savepoint, LOCK_WAIT_SHORT).await?;
        let table = quote(&TableName::new(schema, row.get::<_, String>("relname")));
        if row.get("to_be_dropped") {
            let publication = escape_identifier(&self.source.publication);
            savepoint.batch_execute(&format!("ALTER PUBLICATION {publication} DROP TABLE ONLY {table}")).await?;
        }
        if row.get("to_be_restored") {
            let index: Option<&str> = row.get("previous_index");
            let identity = match (row.get("previous_identity"), index) {
                ("n", _) => "NOTHING".to_owned(),
                ("i", Some(index)) => format!("USING INDEX {}", escape_identifier(index)),
                _ => "DEFAULT".to_owned(),
            };
            savepoint.batch_execute(&format!("ALTER TABLE {table} REPLICA IDENTITY {identity}")).await?;
        }
        Ok(())
    }
}
