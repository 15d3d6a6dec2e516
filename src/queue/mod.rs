//! The log, cursors, deferred events, attempts: every statement on walhook's own tables.

mod partition;

pub use partition::ensure_partitions;
