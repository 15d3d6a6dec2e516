//! What the integration tests share: a real Postgres, a scripted receiver, the real program, waiting with a deadline.

// Each file of tests/ compiles this module anew and uses only a part of it.
#![allow(dead_code)]

pub mod certificates;
pub mod clock;
pub mod cluster;
pub mod load;
pub mod messages;
pub mod metrics;
pub mod proxy;
pub mod receiver;
pub mod scene;
pub mod wait;
pub mod walhook;
