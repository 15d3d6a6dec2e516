//! Asks the source's catalogue about types that are not built in.
//!
//! The catalogue shows what is now, the WAL what was when a row was written. Three things bridge the two: a lookup that
//! does not see the transaction being read yet is repeated until it does; a row that does not fit makes capture look
//! again; and what can change without a word in the stream is looked up anew when it is older than [`FRESH`].

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Row;
use tracing::{info, warn};

use super::Error;
use super::assembler::WantedTypes;
use crate::model::TableName;
use crate::pgoutput::TypeShape;
use crate::postgres::{self, Class, Session, Settings};

/// How old knowledge of composite types may be when a transaction is read.
const FRESH: Duration = Duration::from_secs(1);
/// Between two looks for a transaction that is in the WAL and not visible yet. Usually it takes microseconds, but as
/// long as a synchronous standby does where there is one.
const PAUSE: Duration = Duration::from_millis(5);
const VISIBLE_WITHIN: Duration = Duration::from_secs(10);

/// A session for lookups, opened with the first one: most databases have no need of it.
pub(super) struct TypeCatalogue {
    database: Settings,
    session: Option<Session>,
    checked: Instant,
    /// What was said in the log, once each.
    told_types: HashSet<u32>,
    told_tables: HashSet<TableName>,
}

impl TypeCatalogue {
    pub(super) fn new(database: &Settings) -> Self {
        TypeCatalogue {
            database: database.clone(),
            session: None,
            checked: Instant::now(),
            told_types: HashSet::new(),
            told_tables: HashSet::new(),
        }
    }

    /// Whether it is time to doubt what may have changed; counts as done.
    pub(super) fn is_due(&mut self) -> bool {
        let due = self.checked.elapsed() >= FRESH;
        if due {
            self.checked = Instant::now();
        }
        due
    }

    /// What the catalogue says of the wanted types and of those they are made of.
    pub(super) async fn describe(&mut self, wanted: &WantedTypes) -> Result<Vec<(u32, TypeShape)>, Error> {
        let xid = wanted.xid.map(i64::from);
        let end = Instant::now() + VISIBLE_WITHIN;
        loop {
            let rows =
                self.session().await?.query(include_str!("../../sql/type_describe.sql"), &[&wanted.ids, &xid]).await?;
            if rows.first().is_some_and(|row| row.get("visible")) {
                return Ok(self.read(&wanted.ids, &rows));
            }
            if Instant::now() > end {
                let message = "a transaction that needs a look at the catalogue is in the WAL and not visible yet; \
                               its commit may wait for a synchronous standby";
                return Err(Error::Stream { message: message.into(), class: Class::Retry });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Says once that a table's rows came with values as text.
    pub(super) fn warn_misfit(&mut self, table: TableName) {
        if self.told_tables.insert(table.clone()) {
            warn!(
                %table,
                "a composite type in this table was altered since the row was written: its value is sent with the \
                 fields it had where that is certain, and otherwise as text"
            );
        }
    }

    async fn session(&mut self) -> Result<&Session, Error> {
        if self.session.as_ref().is_none_or(|session| session.is_closed()) {
            self.session = Some(postgres::connect(&self.database, "walhook types").await?);
        }
        Ok(self.session.as_ref().expect("it was just opened"))
    }

    fn read(&mut self, wanted: &[u32], rows: &[Row]) -> Vec<(u32, TypeShape)> {
        let known = rows.iter().filter(|row| row.get::<_, Option<u32>>("oid").is_some());
        let mut found: Vec<(u32, TypeShape)> = known.map(|row| self.read_type(row)).collect();
        for type_id in wanted {
            if !found.iter().any(|(oid, _)| oid == type_id) {
                if self.told_types.insert(*type_id) {
                    warn!(type_id, "a type was dropped since rows with it were written: its values are sent as text");
                }
                found.push((*type_id, TypeShape::Text));
            }
        }
        found
    }

    fn read_type(&mut self, row: &Row) -> (u32, TypeShape) {
        let (type_id, inner): (u32, u32) = (row.get("oid"), row.get("inner_type"));
        let shape = match row.get("shape") {
            "domain" => TypeShape::Domain(inner),
            "array" => {
                let delimiter: Option<&str> = row.get("delimiter");
                let delimiter = delimiter.and_then(|text| text.bytes().next()).unwrap_or(b',');
                TypeShape::Array { element: inner, delimiter }
            }
            "composite" => {
                let (names, types): (Vec<String>, Vec<u32>) = (row.get("field_names"), row.get("field_types"));
                TypeShape::Composite { fields: names.into_iter().zip(types).collect(), only_grew: row.get("only_grew") }
            }
            "hstore" => TypeShape::Hstore,
            "cast" => {
                if self.told_types.insert(type_id) {
                    let name: &str = row.get("name");
                    info!("values of type {name} are sent as text: its cast to json is a function of the server");
                }
                TypeShape::Text
            }
            _ => TypeShape::Text,
        };
        (type_id, shape)
    }
}
