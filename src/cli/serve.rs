//! `walhook serve`: the service in the foreground, until a signal.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{Level, error, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::service::{self, Config, LogFormat, RawSettings};

/// Capture, queue and deliver.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// A TOML file with the same settings, named as the flags are
    #[arg(long, env = "WALHOOK_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: RawSettings,
}

/// Bad settings.
const EXIT_USAGE: u8 = 2;
/// Starting again would end the same way: somebody has to act.
const EXIT_PERMANENT: u8 = 3;

/// Serves until SIGINT or SIGTERM. A second signal ends at once.
///
/// # Errors
/// Only what has nothing to do with the service: no signals, no log.
pub async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let config = match Config::load(args.settings, args.config.as_deref()) {
        Ok(config) => config,
        Err(problem) => {
            eprintln!("walhook: {problem}");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    start_log(config.log_format)?;
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone())?;
    match Box::pin(service::run(config, stop)).await {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(problem) => {
            error!("{problem}");
            Ok(if problem.is_permanent() { ExitCode::from(EXIT_PERMANENT) } else { ExitCode::FAILURE })
        }
    }
}

fn start_log(format: Option<LogFormat>) -> anyhow::Result<()> {
    let terminal = std::io::stderr().is_terminal();
    let filter = EnvFilter::try_from_env("WALHOOK_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // What libraries say for those who work on them has statements with their values in it, and hosts with passwords.
    let ours = filter_fn(|from| *from.level() <= Level::INFO || from.target().starts_with(env!("CARGO_PKG_NAME")));
    let started = match format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json }) {
        LogFormat::Text => log.with_ansi(terminal).with_target(false).finish().with(ours).try_init(),
        LogFormat::Json => log.json().flatten_event(true).finish().with(ours).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("the log cannot be started: {error}"))
}

fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be listened for")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?;
    tokio::spawn(async move {
        for signals in 1.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            // Not whether it stops already: that may be because of an error.
            if signals > 1 {
                warn!("ended by a second signal; what was under way will be sent again after the next start");
                std::process::exit(1);
            }
            stop.cancel();
        }
    });
    Ok(())
}
