//! Sends events to webhooks and records what came of it.

mod handle;

pub use handle::{Command, Handle, handle};
