//! Logical decoding messages of the `pgoutput` plugin, protocol version 1, and their values as JSON.
//!
//! Bytes in, borrowed messages out: nothing here does I/O, and nothing is copied but relation descriptions. The
//! format is that of the PostgreSQL manual, chapter "Logical Replication Message Formats".

mod builtin;
mod message;
mod reader;
mod types;
mod value;

pub use message::{Cell, Column, Identity, Message, OldRow, Relation, Relations, Row, Tuple, decode};
pub use reader::DecodeError;
pub use types::{TypeShape, Types};
pub use value::{Array, Composite, Field, Kind, write_key, write_string, write_value};
