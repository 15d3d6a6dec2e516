//! Parses the command line and calls the command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use walhook::cli::{demo, serve};

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
    /// See it work: a private throwaway Postgres, a sample shop, its webhooks
    Demo(demo::DemoArgs),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // hyper-rustls and whoever else asks for rustls' default get the one provider this program is built with.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("walhook: a TLS provider was installed before the program's own");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("walhook: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match arguments.command {
            Command::Serve(args) => Box::pin(serve::run(*args)).await,
            Command::Demo(args) => Box::pin(demo::run(args)).await.map(|()| ExitCode::SUCCESS),
        }
    });
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
