//! Which triggers a change fires, and the event data each one gets. Pure: no I/O, no async.

mod watch;

pub use watch::Watch;
