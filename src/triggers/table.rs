//! What a table's name stands for, and whether its changes can be watched.

use deadpool_postgres::Transaction;

use super::error::{Error, Unwatchable};
use crate::model::{Columns, Operations, TableName};
use postgres_protocol::escape::escape_identifier;

/// walhook's own schema.
const OWN_SCHEMA: &str = "walhook";

/// A relation that has a table's name.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub relation: u32,
    pub name: TableName,
    /// `pg_class.relkind`.
    pub kind: String,
    /// `pg_class.relpersistence`.
    pub persistence: String,
    pub system: bool,
    /// For a partition: the table it is a partition of, quoted.
    pub parent: Option<String>,
    pub columns: Vec<String>,
    /// The primary key's columns in the key's order; empty where there is none.
    pub key_columns: Vec<String>,
}

/// The table, view or foreign table of this name.
pub(super) async fn find(transaction: &Transaction<'_>, name: &TableName) -> Result<Option<Table>, Error> {
    // Postgres cannot take a NUL in a text, and no table has one in its name.
    if name.schema.contains('\0') || name.name.contains('\0') {
        return Ok(None);
    }
    let sql = include_str!("../../sql/catalogue_table.sql");
    let row = transaction.query_opt(sql, &[&name.schema, &name.name]).await?;
    Ok(row.map(|row| Table {
        relation: row.get("oid"),
        name: name.clone(),
        kind: row.get("relkind"),
        persistence: row.get("relpersistence"),
        system: row.get("system"),
        parent: row.get("root"),
        columns: row.get("columns"),
        key_columns: row.get("key_columns"),
    }))
}

impl Table {
    pub fn is_partitioned(&self) -> bool {
        self.kind == "p"
    }

    /// Whether changes of this table can be watched.
    pub fn check_watchable(&self) -> Result<(), Unwatchable> {
        let quoted = || quote(&self.name);
        if self.name.schema == OWN_SCHEMA {
            return Err(Unwatchable::Own);
        }
        if self.system {
            return Err(Unwatchable::System);
        }
        match (self.kind.as_str(), self.persistence.as_str()) {
            ("v" | "m", _) => Err(Unwatchable::View),
            ("f", _) => Err(Unwatchable::Foreign(quoted())),
            (_, "t") => Err(Unwatchable::Temporary),
            (_, "u") => Err(Unwatchable::Unlogged(quoted())),
            _ => match &self.parent {
                Some(parent) => Err(Unwatchable::Partition(parent.clone())),
                None => Ok(()),
            },
        }
    }

    /// The first name in a `columns` list that is no column.
    pub fn unknown_column<'a>(&self, operations: &'a Operations) -> Option<&'a str> {
        specs(operations).find_map(|spec| self.first_unknown(&spec.columns))
    }

    /// The first name in a `payload` list that is no column.
    pub fn unknown_payload_column<'a>(&self, operations: &'a Operations) -> Option<&'a str> {
        specs(operations).find_map(|spec| self.first_unknown(&spec.payload))
    }

    fn first_unknown<'a>(&self, columns: &'a Columns) -> Option<&'a str> {
        match columns {
            Columns::All => None,
            Columns::Only(names) => names.iter().find(|name| !self.columns.contains(name)).map(String::as_str),
        }
    }
}

fn specs(operations: &Operations) -> impl Iterator<Item = &crate::model::OperationSpec> {
    [&operations.insert, &operations.update, &operations.delete].into_iter().flatten()
}

/// Schema and name, both in double quotes, for DDL.
pub(super) fn quote(name: &TableName) -> String {
    format!("{}.{}", escape_identifier(&name.schema), escape_identifier(&name.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OperationSpec;

    fn table(schema: &str, kind: &str, persistence: &str, parent: Option<&str>) -> Table {
        Table {
            relation: 20_000,
            name: TableName::new(schema, "t"),
            kind: kind.into(),
            persistence: persistence.into(),
            system: false,
            parent: parent.map(Into::into),
            columns: vec!["id".into(), "Name".into()],
            key_columns: vec!["id".into()],
        }
    }

    #[test]
    fn only_logged_tables_of_the_user_are_watchable() {
        let cases = [
            (table("public", "r", "p", None), Ok(())),
            (table("public", "p", "p", None), Ok(())),
            (table("walhook", "r", "p", None), Err(Unwatchable::Own)),
            (table("public", "v", "p", None), Err(Unwatchable::View)),
            (table("public", "m", "p", None), Err(Unwatchable::View)),
            (table("public", "f", "p", None), Err(Unwatchable::Foreign("\"public\".\"t\"".into()))),
            (table("pg_temp_3", "r", "t", None), Err(Unwatchable::Temporary)),
            (table("public", "r", "u", None), Err(Unwatchable::Unlogged("\"public\".\"t\"".into()))),
            (table("public", "r", "p", Some("root")), Err(Unwatchable::Partition("root".into()))),
        ];
        for (table, expected) in cases {
            assert_eq!(table.check_watchable(), expected, "{table:?}");
        }
        let system = Table { system: true, ..table("pg_catalog", "r", "p", None) };
        assert_eq!(system.check_watchable(), Err(Unwatchable::System));
    }

    #[test]
    fn columns_are_looked_for_as_written() {
        let spec = |columns: &[&str], payload: &[&str]| OperationSpec {
            columns: Columns::Only(columns.iter().map(ToString::to_string).collect()),
            payload: Columns::Only(payload.iter().map(ToString::to_string).collect()),
        };
        let operations = |spec| Operations { update: Some(spec), ..Operations::default() };
        let table = table("public", "r", "p", None);
        let known = operations(spec(&["id", "Name"], &["Name"]));
        assert_eq!(table.unknown_column(&known), None);
        assert_eq!(table.unknown_payload_column(&known), None);
        let unknown = operations(spec(&["id", "name"], &["nope"]));
        assert_eq!(table.unknown_column(&unknown), Some("name"));
        assert_eq!(table.unknown_payload_column(&unknown), Some("nope"));
    }
}
