//! Connecting to Postgres: settings, TLS, sessions, the pool, replication connections, migrations, what an error means,
//! a throwaway cluster.
//!
//! ```text
//! connection string ─▶ settings ─▶ transport (socket, TLS) ─┬▶ connect: the driver's sessions, the pool
//!                                                           └▶ replication: our own stream
//! ```

mod channel_binding;
pub mod cluster;
mod connect;
mod error;
mod migrate;
mod parameters;
mod password;
pub mod replication;
mod settings;
mod tls;
mod transport;

pub use connect::{Manager, Pool, PoolError, Pooled, Session, connect, connect_to_listen, connect_to_read, pool};
pub use error::{Class, Error, LOCK_NOT_AVAILABLE, NotReady, ServerError, classify, sqlstate};
pub use migrate::{lock_setup, migrate, unlock_setup};
pub use settings::Settings;

/// Let the server notice within half a minute that we are gone: our advisory locks and our slot live as long as its end
/// of the connection, and another node waits for them.
const SERVER_KEEPALIVES: &str = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 \
                                 -c tcp_user_timeout=20000";
