//! The commands, one file or folder a command. Errors end here: a person reads them.

pub mod backfill;
pub mod bench;
mod catalogue;
pub mod demo;
pub mod redeliver;
pub mod replay;
pub mod serve;
mod stage;
