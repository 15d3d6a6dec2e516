//! A table as a backfill reads it: in the order of a unique key, page by page, each value as the stream prints it.

use postgres_protocol::escape::{escape_identifier, escape_literal};
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use super::Snapshot;
use crate::model::TableName;
use crate::pgoutput::{self, Cell, Column, Identity, Relation};
use crate::postgres;

/// Bounds of a page: rows, those of them that are read whole to see whether a condition holds, and bytes as far as
/// Postgres can tell without unpacking values. One row is never too much.
const ROWS: u32 = 1000;
const ROWS_LOOKED_AT: u32 = 10_000;
const BYTES: u32 = 1024 * 1024;

/// Why the rows of a table cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It was dropped.
    #[error("its table does not exist any more")]
    Gone,
    /// Rows could not be told from each other.
    #[error(
        "table {0} has no unique key that is in the WAL with each change: give it a primary key, or a unique index \
         over columns that are NOT NULL and REPLICA IDENTITY USING INDEX or FULL; without one nobody can tell which of \
         its rows were sent"
    )]
    NoKey(TableName),
    /// What Postgres said.
    #[error(transparent)]
    Database(#[from] postgres::Error),
}

impl From<tokio_postgres::Error> for Unreadable {
    fn from(error: tokio_postgres::Error) -> Self {
        Unreadable::Database(error.into())
    }
}

/// See the module's description.
#[derive(Clone, Debug)]
pub struct Table {
    pub(super) relation: Relation,
    /// Of the transaction that it was read in.
    pub(super) snapshot: Snapshot,
    /// The backfill's state, where one was asked for.
    pub(super) state: Option<String>,
    /// Rows in all, by the planner's statistics.
    pub estimated_rows: Option<i64>,
    partitioned: bool,
    /// `pg_attribute.attlen` of each column; negative where it varies.
    lengths: Vec<i16>,
    key: Vec<KeyColumn>,
}

#[derive(Clone, Debug)]
struct KeyColumn {
    name: String,
    /// For a cast.
    type_name: String,
    /// `operator(schema.=)`, and those for `>=` and `>`: which ones they are is the index' business, not the session's.
    equal: String,
    not_less: String,
    greater: String,
}

/// The name of the table with this OID.
///
/// # Errors
/// [`Unreadable::Gone`], [`Unreadable::Database`].
pub(super) async fn name(client: &impl GenericClient, relation: u32) -> Result<TableName, Unreadable> {
    let row = client.query_opt(include_str!("../../../sql/backfill_name.sql"), &[&relation]).await?;
    row.map(|row| TableName::new(row.get::<_, &str>(0), row.get::<_, &str>(1))).ok_or(Unreadable::Gone)
}

impl Table {
    /// Looks the table with this OID up, as this publication publishes it.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub async fn read(
        client: &impl GenericClient,
        relation: u32,
        publication: &str,
        backfill_id: Option<Uuid>,
    ) -> Result<Table, Unreadable> {
        let sql = include_str!("../../../sql/backfill_table.sql");
        let row = client.query_opt(sql, &[&relation, &publication, &backfill_id]).await?.ok_or(Unreadable::Gone)?;
        let table = TableName::new(row.get::<_, &str>("nspname"), row.get::<_, &str>("relname"));
        let key = read_key(&row);
        if key.is_empty() {
            return Err(Unreadable::NoKey(table));
        }
        let identity = match row.get("relreplident") {
            "f" => Identity::Full,
            "i" => Identity::Index,
            "n" => Identity::Nothing,
            _ => Identity::Default,
        };
        let (names, types): (Vec<String>, Vec<u32>) = (row.get("names"), row.get("types"));
        let in_identity: Vec<bool> = row.get("identity");
        let columns = names.into_iter().zip(types).zip(in_identity);
        let columns =
            columns.map(|((name, type_id), in_identity)| Column { name, type_id, in_identity }).collect::<Vec<_>>();
        let snapshot = Snapshot::parse(row.get("snapshot")).expect("Postgres shows a snapshot as documented");
        Ok(Table {
            relation: Relation { id: relation, table, identity, columns },
            snapshot,
            state: row.get("state"),
            estimated_rows: row.get("estimated_rows"),
            partitioned: row.get::<_, &str>("relkind") == "p",
            lengths: row.get("lengths"),
            key,
        })
    }

    /// The columns that the rows are read in the order of.
    pub fn key_columns(&self) -> Vec<String> {
        self.key.iter().map(|column| column.name.clone()).collect()
    }

    /// The place of each of them among all columns.
    pub(super) fn key_places(&self) -> Vec<usize> {
        let place = |key: &KeyColumn| self.relation.columns.iter().position(|column| column.name == key.name);
        self.key.iter().filter_map(place).collect()
    }

    /// Asks for the end of the next page: the key of its last row, and how many rows it has, whether the condition
    /// holds for them or not. Values are not unpacked for it.
    pub(super) fn page(&self, after: Option<&[String]>, condition: Option<&str>) -> String {
        let limit = if condition.is_some() { ROWS_LOOKED_AT } else { ROWS };
        let numbered: Vec<String> = (1..=self.key.len()).map(|number| format!("k{number}")).collect();
        let key: Vec<String> = self
            .key
            .iter()
            .zip(&numbered)
            .map(|(key, alias)| format!("{} as {alias}", self.column(&key.name)))
            .collect();
        let (numbered, key) = (numbered.join(", "), key.join(", "));
        let (matched, size) = (condition_of(condition), self.size());
        let from = self.rows_after(after, limit);
        format!(
            "select {numbered}, looked_at from (\
               select {numbered}, row_number() over page as looked_at, sum(matched) over page as matched, \
                      sum(size) over page - size as bytes_before from (\
                 select {numbered}, matched::int as matched, case when matched then size else 0 end as size from (\
                   select {key}, ({matched}\n) is true as matched, {size} as size from {from}) sized) summed \
               window page as (order by {numbered} rows unbounded preceding)) bounded \
             where matched <= {ROWS} and bytes_before < {BYTES} order by looked_at desc limit 1"
        )
    }

    /// Asks for those of the next so many rows for which the condition holds, with all their columns.
    pub fn rows(&self, after: Option<&[String]>, condition: Option<&str>, limit: u32) -> String {
        let columns: Vec<String> = self.relation.columns.iter().map(|column| self.column(&column.name)).collect();
        let (columns, matched) = (columns.join(", "), condition_of(condition));
        let (from, order) = (self.rows_after(after, limit), self.order());
        format!("select {columns} from {from} where ({matched}\n) order by {order}")
    }

    /// Asks how many of the next so many rows there are up to this key.
    pub(super) fn count_to(&self, after: Option<&[String]>, last: &[String], limit: u32) -> String {
        format!("select count(*) from {} where not ({})", self.rows_after(after, limit), self.is_after(last))
    }

    /// The key of one of its rows.
    pub(super) fn key_of(&self, row: &pgoutput::Row) -> Option<Vec<String>> {
        let cells: Vec<Cell<'_>> = row.tuple().cells().collect();
        let text = |place: usize| match cells.get(place)? {
            Cell::Text(text) => String::from_utf8(text.to_vec()).ok(),
            Cell::Null | Cell::Unchanged => None,
        };
        self.key_places().into_iter().map(text).collect()
    }

    /// The next so many rows, under the table's own name.
    fn rows_after(&self, after: Option<&[String]>, limit: u32) -> String {
        let (table, name, order) = (self.quoted(), escape_identifier(&self.relation.table.name), self.order());
        let only = if self.partitioned { "" } else { "only " };
        let after = after.map(|after| format!("where {} ", self.is_after(after))).unwrap_or_default();
        format!("(select * from {only}{table} as {name} {after}order by {order} limit {limit}) as {name}")
    }

    /// Whether a row comes after a key. The comparison of whole rows uses an index best; it takes one operator for all
    /// columns.
    fn is_after(&self, after: &[String]) -> String {
        let parts: Vec<(&KeyColumn, String, String)> = self
            .key
            .iter()
            .zip(after)
            .map(|(key, value)| (key, self.column(&key.name), format!("{}::{}", escape_literal(value), key.type_name)))
            .collect();
        let alike = parts.iter().all(|(key, _, _)| key.greater == parts[0].0.greater);
        if alike {
            let columns: Vec<&str> = parts.iter().map(|(_, column, _)| column.as_str()).collect();
            let values: Vec<&str> = parts.iter().map(|(_, _, value)| value.as_str()).collect();
            return format!("row({}) {} row({})", columns.join(", "), parts[0].0.greater, values.join(", "));
        }
        let last = parts.len() - 1;
        let step = |rest: String, (place, (key, column, value)): (usize, &(&KeyColumn, String, String))| {
            let KeyColumn { equal, not_less, greater, .. } = key;
            if place == last {
                return format!("{column} {greater} {value}");
            }
            let deeper = format!("({column} {equal} {value} and {rest})");
            format!("({column} {not_less} {value} and ({column} {greater} {value} or {deeper}))")
        };
        parts.iter().enumerate().rev().fold(String::new(), step)
    }

    fn order(&self) -> String {
        let columns: Vec<String> = self.key.iter().map(|key| self.column(&key.name)).collect();
        columns.join(", ")
    }

    /// About how many bytes a row's text has: what can be told without unpacking a value.
    fn size(&self) -> String {
        const BYTEA: u32 = 17;
        const TEXTS: [u32; 3] = [25, 1042, 1043];
        let sizes = self.relation.columns.iter().zip(&self.lengths).map(|(column, length)| {
            let name = self.column(&column.name);
            match column.type_id {
                _ if *length >= 0 => "16".to_owned(),
                type_id if TEXTS.contains(&type_id) => format!("coalesce(octet_length({name}), 0)::bigint"),
                BYTEA => format!("2 * coalesce(octet_length({name}), 0)::bigint"),
                // Packed values are a few times smaller than their text.
                _ => format!("4 * coalesce(pg_column_size({name}), 0)::bigint"),
            }
        });
        sizes.collect::<Vec<_>>().join(" + ")
    }

    /// Schema and name in quotes.
    pub(super) fn quoted(&self) -> String {
        quote(&self.relation.table)
    }

    fn column(&self, name: &str) -> String {
        format!("{}.{}", escape_identifier(&self.relation.table.name), escape_identifier(name))
    }
}

/// Schema and name in quotes.
pub(super) fn quote(table: &TableName) -> String {
    format!("{}.{}", escape_identifier(&table.schema), escape_identifier(&table.name))
}

/// A condition may end in a comment, so a line must end after it.
fn condition_of(condition: Option<&str>) -> &str {
    condition.unwrap_or("true")
}

fn read_key(row: &Row) -> Vec<KeyColumn> {
    let column = |name: &str| row.get::<_, Option<Vec<String>>>(name).unwrap_or_default().into_iter();
    let (mut types, mut equal, mut not_less, mut greater) =
        (column("key_types"), column("key_equal"), column("key_not_less"), column("key_greater"));
    let all = std::iter::from_fn(|| Some((types.next()?, equal.next()?, not_less.next()?, greater.next()?)));
    column("key_names")
        .zip(all)
        .map(|(name, (type_name, equal, not_less, greater))| KeyColumn { name, type_name, equal, not_less, greater })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(keys: &[(&str, &str)]) -> Table {
        let column = |name: &str| Column { name: name.into(), type_id: 25, in_identity: true };
        let key = keys.iter().map(|(name, schema)| KeyColumn {
            name: (*name).into(),
            type_name: "text".into(),
            equal: format!("operator({schema}.=)"),
            not_less: format!("operator({schema}.>=)"),
            greater: format!("operator({schema}.>)"),
        });
        Table {
            relation: Relation {
                id: 1,
                table: TableName::new("public", "T\"1"),
                identity: Identity::Full,
                columns: keys.iter().map(|(name, _)| column(name)).collect(),
            },
            snapshot: Snapshot::parse("1:1:").expect("a snapshot"),
            state: None,
            estimated_rows: None,
            partitioned: false,
            lengths: vec![-1; keys.len()],
            key: key.collect(),
        }
    }

    #[test]
    fn keys_are_compared_with_the_operators_of_their_index() {
        let after = |keys: &[(&str, &str)], values: &[&str]| {
            table(keys).is_after(&values.iter().map(ToString::to_string).collect::<Vec<_>>()).replace("\"T\"\"1\".", "")
        };
        assert_eq!(after(&[("a", "x")], &["it's"]), r#"row("a") operator(x.>) row('it''s'::text)"#);
        assert_eq!(
            after(&[("a", "x"), ("b", "x")], &["1", "2"]),
            r#"row("a", "b") operator(x.>) row('1'::text, '2'::text)"#
        );
        assert_eq!(
            after(&[("a", "x"), ("b", "y")], &["1", "2"]),
            "(\"a\" operator(x.>=) '1'::text and (\"a\" operator(x.>) '1'::text or \
             (\"a\" operator(x.=) '1'::text and \"b\" operator(y.>) '2'::text)))"
        );
    }

    #[test]
    fn a_condition_stands_by_itself_whatever_it_ends_with() {
        let table = table(&[("id", "x")]);
        for sql in [table.page(None, Some("a or b -- end")), table.rows(None, Some("a or b -- end"), 5)] {
            assert!(sql.contains("(a or b -- end\n)"), "{sql}");
        }
        assert!(table.rows(None, None, 5).contains("from only \"public\".\"T\"\"1\" as \"T\"\"1\" order by"));
    }
}
