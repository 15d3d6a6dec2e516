//! `walhook replay`: sends a stretch of a trigger's log again and shows how far it is.

use std::process::ExitCode;

use clap::Args;

use super::catalogue::{CatalogueArgs, EXIT_USAGE, follow};
use crate::triggers::{ReplayFrom, ReplayRequest, ReplayStatus};

/// Send events of a trigger again, in their order, from a place in its log on.
///
/// Each request carries the header `walhook-replay` with the replay's id, and the event's own id. The command works
/// through the database, not through the API: the nodes that deliver do the work, also when this command is stopped.
/// `cancel_replay` of the API ends it.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("from").required(true)))]
pub struct ReplayArgs {
    /// The trigger's name
    #[arg(value_name = "TRIGGER")]
    trigger: String,
    /// From the commits of this time on; UTC unless it says otherwise
    #[arg(long, value_name = "TIME", group = "from")]
    from_time: Option<String>,
    /// From the commit at this LSN on
    #[arg(long, value_name = "LSN", group = "from")]
    from_lsn: Option<String>,
    /// From this event on, by its id
    #[arg(long, value_name = "ID", group = "from")]
    from_id: Option<String>,
    /// Up to this event, by its id; otherwise up to the last one that is there now
    #[arg(long, value_name = "ID")]
    to_id: Option<String>,
    /// Events a second at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Only say how many events that are
    #[arg(long, conflicts_with = "detach")]
    dry_run: bool,
    /// Only ask for it and print its id; otherwise wait and show progress
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    catalogue: CatalogueArgs,
}

/// Asks for a replay and, unless detached, waits for its end.
///
/// # Errors
/// What keeps it from being asked for, and why it failed.
pub async fn run(args: ReplayArgs) -> anyhow::Result<ExitCode> {
    let from = match (args.from_time, args.from_lsn, args.from_id) {
        (Some(time), ..) => ReplayFrom::Time(time),
        (_, Some(lsn), _) => ReplayFrom::Lsn(lsn),
        (.., id) => ReplayFrom::Id(id.unwrap_or_default()),
    };
    let Some(catalogue) = args.catalogue.open().await? else { return Ok(ExitCode::from(EXIT_USAGE)) };
    let request = ReplayRequest { from, to_id: args.to_id, rate: args.rate };
    let (id, events) = catalogue.start_replay(&args.trigger, &request, args.dry_run).await?;
    let Some(id) = id else {
        println!("{events} events would be sent again");
        return Ok(ExitCode::SUCCESS);
    };
    if args.detach {
        println!("{id}");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("replay {id} of {}; it goes on when this command is stopped", args.trigger);
    let look = async || catalogue.replays(None, Some(id)).await;
    let ended = follow(&format!("replay {id}"), look, ReplayStatus::is_over, describe).await?;
    match ended.error {
        Some(reason) => Err(anyhow::anyhow!("replay {id} failed: {reason}")),
        None if ended.state == "done" => Ok(ExitCode::SUCCESS),
        None => Ok(ExitCode::FAILURE),
    }
}

fn describe(status: &ReplayStatus) -> String {
    let ReplayStatus { state, events, queued, skipped, waiting, .. } = status;
    let done = queued - waiting;
    let left_out = if *skipped > 0 { format!(", {skipped} waited anyway") } else { String::new() };
    format!("{state}: {done} of {events} events sent{left_out}")
}
