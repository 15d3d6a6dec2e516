//! Parses the command line and calls the command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use walhook::cli::{backfill, bench, demo, redeliver, replay, serve};

/// Delivers committed Postgres row changes to webhooks.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Capture row changes, queue them, deliver them to webhooks
    Serve(Box<serve::ServeArgs>),
    /// Send the existing rows of a trigger's table, while new changes go on
    Backfill(Box<backfill::BackfillArgs>),
    /// Send dead events again
    Redeliver(Box<redeliver::RedeliverArgs>),
    /// Send a stretch of a trigger's events again
    Replay(Box<replay::ReplayArgs>),
    /// See it work: a private throwaway Postgres, a sample shop, its webhooks
    Demo(demo::DemoArgs),
    /// Measure it against its floors: a private throwaway Postgres, a receiver, medians of several rounds
    Bench(bench::BenchArgs),
    /// The webhooks' receiver of the benchmark, which starts it
    #[command(hide = true)]
    BenchReceiver(bench::ReceiverArgs),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // hyper-rustls and whoever else asks for rustls' default get the one provider this program is built with.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("walhook: a TLS provider was installed before the program's own");
    }
    // The receiver of the benchmark is to take as little of the machine as it can.
    let mut builder = match arguments.command {
        Command::BenchReceiver(_) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    // Where the machine is full others run first, and more is ready when this thread looks again: a sleep and a wake-up
    // less for each few answers of webhooks. Where it is not, this costs next to nothing.
    builder.on_thread_park(std::thread::yield_now);
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("walhook: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match arguments.command {
            Command::Serve(args) => Box::pin(serve::run(*args)).await,
            Command::Backfill(args) => Box::pin(backfill::run(*args)).await,
            Command::Redeliver(args) => Box::pin(redeliver::run(*args)).await,
            Command::Replay(args) => Box::pin(replay::run(*args)).await,
            Command::Demo(args) => Box::pin(demo::run(args)).await.map(|()| ExitCode::SUCCESS),
            Command::Bench(args) => Box::pin(bench::run(args)).await.map(|()| ExitCode::SUCCESS),
            Command::BenchReceiver(args) => bench::receive(args).await.map(|()| ExitCode::SUCCESS),
        }
    });
    // A name that is being looked up is not waited for.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| {
        eprintln!("walhook: {error:#}");
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
