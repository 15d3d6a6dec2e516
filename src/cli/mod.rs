//! The commands, one file or folder a command. Errors end here: a person reads them.

pub mod backfill;
pub mod bench;
pub mod demo;
pub mod serve;
mod stage;
