//! Which triggers a change fires, and the event data each one gets. Pure: no I/O, no async.

mod backfill;
mod custom;
mod old_row;
mod plan;
mod printer;
mod row;
mod watch;

pub use backfill::row_key;
pub use plan::{Change, Matcher, Moment};
pub use watch::{TableWatch, TypeWatch, Watch, Watches};
