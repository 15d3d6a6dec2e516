//! This node among the others that work on the same queue: that it lives, and who else does.

mod announcer;
mod lease;
mod membership;

pub use announcer::announce;
pub use lease::{Lease, Moment};
pub use membership::{Member, Membership, Standing};
