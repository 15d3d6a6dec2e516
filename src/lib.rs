//! walhook reads a Postgres database's WAL through a logical replication slot, turns committed row changes into
//! events, keeps them in a queue inside Postgres, and delivers them to webhooks until they are accepted.
//!
//! The modules are rooms of one house, listed from the top down: a room uses the rooms above it and none below
//! (`tests/tidy.rs` holds that). ARCHITECTURE.md has the map and the path of one change.

pub mod api;
pub mod capture;
pub mod cli;
pub mod delivery;
pub mod matching;
pub mod model;
pub mod node;
pub mod pgoutput;
pub mod postgres;
pub mod queue;
pub mod service;
pub mod triggers;
