//! Names that the stream does not tell. A table is not described again when the root that its rows are published under
//! gets another name, nor before Postgres 16 when its schema does. A new stream describes everything as it is. Nor
//! does it tell that its publication is gone.

use tokio_postgres::types::PgLsn;

use super::Error;
use super::session::ended;
use crate::model::{Lsn, TableName};
use crate::postgres::{self, Session, Settings};

/// What is known of names that changed.
pub(super) struct Names {
    database: Settings,
    publication: String,
    /// Opened with the first look.
    session: Option<Session>,
    /// The end of the WAL when a name was first seen to be another one.
    stale_since: Option<Lsn>,
}

impl Names {
    pub(super) fn new(database: &Settings, publication: &str) -> Self {
        let (database, publication) = (database.clone(), publication.to_owned());
        Names { database, publication, session: None, stale_since: None }
    }

    /// Compares the names of tables as the stream gave them with the source's catalogue. Returns the position from
    /// which on a new stream tells the new ones, if there are any: one that starts earlier would describe what was.
    ///
    /// # Errors
    /// Also where the publication is gone, which the next preparation takes for a gap; otherwise what Postgres said.
    pub(super) async fn find_stale<'a>(
        &mut self,
        described: impl Iterator<Item = (u32, &'a TableName)>,
    ) -> Result<Option<Lsn>, Error> {
        if self.session.as_ref().is_none_or(|session| session.is_closed()) {
            self.session = Some(postgres::connect(&self.database, "walhook names").await?);
        }
        let session = self.session.as_ref().expect("it was just opened");
        let (mut relations, mut schemas, mut names) = (Vec::new(), Vec::new(), Vec::new());
        for (relation, table) in described {
            relations.push(relation);
            schemas.push(table.schema.as_str());
            names.push(table.name.as_str());
        }
        let sql = include_str!("../../sql/stale_names.sql");
        let row = session.query_one(sql, &[&relations, &schemas, &names, &self.publication]).await?;
        if !row.get::<_, bool>("published") {
            return Err(ended("the publication is gone"));
        }
        let wal_end = Lsn(row.get::<_, PgLsn>("wal_end").into());
        self.stale_since = row.get::<_, bool>("stale").then(|| self.stale_since.unwrap_or(wal_end));
        Ok(self.stale_since)
    }
}
