//! This node among the others that work on the same queue: that it lives, who else does, and which share is its own.

mod lease;
mod membership;

pub use lease::{Lease, Moment};
pub use membership::{Member, Membership, Standing};
