//! Names of tables.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A table with its schema, both as the catalogue stores them: unquoted, case kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// Schema, such as `public`.
    pub schema: String,
    /// Table, such as `users`.
    pub name: String,
}

impl TableName {
    /// A table in a schema.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        TableName { schema: schema.into(), name: name.into() }
    }
}

/// As Hasura prints tables in its errors: the schema is left out when it is `public`.
impl fmt::Display for TableName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.schema == "public" { out.write_str(&self.name) } else { write!(out, "{}.{}", self.schema, self.name) }
    }
}
