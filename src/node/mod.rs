//! This node among the others that work on the same queue: that it lives, who else does, and what time it is for all.

mod announcer;
mod lease;
mod membership;
mod server_clock;
mod trouble;

pub use announcer::announce;
pub use lease::{Lease, Moment};
pub use membership::{Member, Membership, Standing};
pub use server_clock::ServerClock;
pub use trouble::Trouble;
