//! What the publication publishes of a table, and the replica identities of the table and of its partitions.

use deadpool_postgres::Transaction;

use super::SourceInfo;
use super::error::Error;
use super::table::quote;
use crate::model::TableName;

/// What the publication publishes, and the tables in question.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub publishes: [(&'static str, bool); 4],
    pub via_root: bool,
    pub contains: bool,
    /// Whether only some rows or columns of the table are published.
    pub partial: bool,
    /// Whether the stream must be told when partitions are attached or detached: before Postgres 15.
    pub forgets_partitions: bool,
    /// Whether partitions that are made later have an identity: by the primary key, or because an event trigger sees to
    /// it (`walhook.keep_identity`).
    pub guarded: bool,
    /// Generated columns of the table that are not published.
    pub hidden: Vec<String>,
    /// The table itself, then its partitions.
    pub members: Vec<Member>,
}

/// The table or one of its partitions.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub relation: u32,
    pub name: TableName,
    pub kind: String,
    pub persistence: String,
    /// `pg_class.relreplident`.
    pub identity: String,
    /// The index, where the identity is one.
    pub identity_index: Option<String>,
    /// Whether UPDATE and DELETE still work once the table is published.
    pub usable: bool,
    /// Whether they would under FULL: not with generated columns that are not published.
    pub full_works: bool,
    /// Whether they would under DEFAULT: there is a primary key for it.
    pub key_works: bool,
}

/// Reads what `plan` and `upkeep` decides on. `None` when there is no such publication.
pub(super) async fn read(
    transaction: &Transaction<'_>,
    source: &SourceInfo,
    relation: u32,
) -> Result<Option<State>, Error> {
    let sql = include_str!("../../sql/catalogue_publication.sql");
    let Some(row) = transaction.query_opt(sql, &[&source.publication, &relation]).await? else { return Ok(None) };
    let members =
        transaction.query(include_str!("../../sql/catalogue_identity.sql"), &[&relation, &source.publication]).await?;
    Ok(Some(State {
        publishes: [
            ("insert", row.get("pubinsert")),
            ("update", row.get("pubupdate")),
            ("delete", row.get("pubdelete")),
            ("truncate", row.get("pubtruncate")),
        ],
        via_root: row.get("pubviaroot"),
        contains: row.get("contains"),
        partial: row.get("partial"),
        forgets_partitions: row.get("forgets_partitions"),
        guarded: row.get("guarded"),
        hidden: row.get("hidden"),
        members: members
            .iter()
            .map(|row| Member {
                relation: row.get("oid"),
                name: TableName::new(row.get::<_, String>("nspname"), row.get::<_, String>("relname")),
                kind: row.get("relkind"),
                persistence: row.get("relpersistence"),
                identity: row.get("relreplident"),
                identity_index: row.get("identity_index"),
                usable: row.get("usable"),
                full_works: row.get("full_works"),
                key_works: row.get("key_works"),
            })
            .collect(),
    }))
}

impl State {
    /// Whether UPDATE or DELETE fail on a table without an identity once it is published.
    pub fn needs_identities(&self) -> bool {
        self.publishes.iter().any(|(operation, published)| *published && matches!(*operation, "update" | "delete"))
    }
}

impl Member {
    /// Schema and name, in double quotes.
    pub fn quoted(&self) -> String {
        quote(&self.name)
    }

    /// Whether it holds rows that could not be updated or deleted once it is published. A root holds none.
    pub fn is_unsafe(&self) -> bool {
        !self.usable && self.kind == "r"
    }

    /// Whether there is an identity for it under which UPDATE and DELETE work.
    pub fn can_be_safe(&self) -> bool {
        self.usable || self.full_works || self.key_works
    }

    /// Whether another identity would serve better: FULL; where that does not work, any that does.
    pub fn wants_identity(&self) -> bool {
        if self.full_works { self.identity != "f" } else { !self.usable && self.key_works }
    }

    /// The statement that makes old rows as whole as they can be.
    pub fn set_identity(&self) -> String {
        let identity = if self.full_works { "FULL" } else { "DEFAULT" };
        format!("ALTER TABLE {} REPLICA IDENTITY {identity};", quote(&self.name))
    }

    /// Runs that, and notes the identity that was, to be given back when the last trigger goes.
    pub async fn give_identity(&self, transaction: &Transaction<'_>, source_id: i16) -> Result<(), Error> {
        transaction.batch_execute(&self.set_identity()).await?;
        let index = self.identity_index.as_deref().filter(|_| self.identity == "i");
        record(transaction, source_id, self.relation, Some((&self.identity, index)), false).await
    }
}

/// Notes what was changed on a table: its identity, which was another one before, or that it was published.
pub(super) async fn record(
    transaction: &Transaction<'_>,
    source_id: i16,
    relation: u32,
    previous: Option<(&str, Option<&str>)>,
    published: bool,
) -> Result<(), Error> {
    let (identity, index) = previous.unzip();
    let values: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&source_id, &relation, &identity, &index.flatten(), &published];
    transaction.execute(include_str!("../../sql/watched_table_record.sql"), values).await?;
    Ok(())
}
