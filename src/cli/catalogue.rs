//! The databases of commands that work on a source's catalogue and queue themselves, beside the nodes that serve.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use crate::postgres::Class;
use crate::service::{self, Config, RawSettings, RawSource};
use crate::triggers::{self, Catalogue};

/// Bad settings, as with `serve`.
pub(super) const EXIT_USAGE: u8 = 2;
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The settings of `walhook serve` that say where they are.
#[derive(Args, Debug)]
pub(super) struct CatalogueArgs {
    /// The source database (required)
    #[arg(long, env = "WALHOOK_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,
    /// A file that holds the database URL
    #[arg(long, env = "WALHOOK_DATABASE_URL_FILE", value_name = "FILE")]
    database_url_file: Option<PathBuf>,
    /// The password for the database URL, where it holds none
    #[arg(long, env = "WALHOOK_DATABASE_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    database_password: Option<String>,
    /// A file that holds this password
    #[arg(long, env = "WALHOOK_DATABASE_PASSWORD_FILE", value_name = "FILE")]
    database_password_file: Option<PathBuf>,
    /// The queue's database, where `walhook serve` has one
    #[arg(long, env = "WALHOOK_QUEUE_URL", hide_env_values = true, value_name = "URL")]
    queue_url: Option<String>,
    /// A file that holds the queue's database URL
    #[arg(long, env = "WALHOOK_QUEUE_URL_FILE", value_name = "FILE")]
    queue_url_file: Option<PathBuf>,
    /// The password for the queue's database URL, where it holds none
    #[arg(long, env = "WALHOOK_QUEUE_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    queue_password: Option<String>,
    /// A file that holds this password
    #[arg(long, env = "WALHOOK_QUEUE_PASSWORD_FILE", value_name = "FILE")]
    queue_password_file: Option<PathBuf>,
    /// Name of the source [default: default]
    #[arg(long, env = "WALHOOK_SOURCE", value_name = "NAME")]
    source: Option<String>,
    /// The TOML file of `walhook serve`
    #[arg(long, env = "WALHOOK_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl CatalogueArgs {
    /// Opens the catalogue; none where the settings cannot be used, which was said then.
    pub(super) async fn open(self) -> anyhow::Result<Option<Catalogue>> {
        let source = RawSource {
            database_url: self.database_url,
            database_url_file: self.database_url_file,
            database_password: self.database_password,
            database_password_file: self.database_password_file,
            ..RawSource::default()
        };
        let settings = RawSettings {
            source,
            queue_url: self.queue_url,
            queue_url_file: self.queue_url_file,
            queue_password: self.queue_password,
            queue_password_file: self.queue_password_file,
            ..RawSettings::default()
        };
        match Config::load(settings, self.config.as_deref()) {
            Ok(config) => Ok(Some(service::open_catalogue(&config, self.source.as_deref()).await?)),
            Err(problems) => {
                eprintln!("walhook: {problems}");
                Ok(None)
            }
        }
    }
}

/// Shows each change of something that the nodes work on, until it is over; gives how it ended. A look that fails is
/// not the end of it: the next one may not.
pub(super) async fn follow<T>(
    what: &str,
    look: impl AsyncFn() -> Result<Vec<T>, triggers::Error>,
    is_over: impl Fn(&T) -> bool,
    describe: impl Fn(&T) -> String,
) -> anyhow::Result<T> {
    let mut shown = String::new();
    loop {
        let text = match look().await {
            Ok(found) => {
                let status = found.into_iter().next().with_context(|| format!("{what} is gone"))?;
                let text = describe(&status);
                if is_over(&status) {
                    println!("{text}");
                    return Ok(status);
                }
                text
            }
            Err(error) if error.class() == Class::Retry => format!("{what} cannot be looked at: {error}; trying again"),
            Err(error) => return Err(error.into()),
        };
        if text != shown {
            eprintln!("{text}");
            shown = text;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
