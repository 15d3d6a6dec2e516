//! Connecting to Postgres: settings, sessions, the pool, migrations, what an error means, a throwaway cluster.

pub mod cluster;
mod connect;
mod error;
mod migrate;

pub use connect::{Pool, Session, Settings, connect, pool};
pub use error::{Class, Error, classify, sqlstate};
pub use migrate::{lock_setup, migrate, unlock_setup};
