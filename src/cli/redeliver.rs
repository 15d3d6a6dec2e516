//! `walhook redeliver`: sends dead events again.

use std::process::ExitCode;

use clap::Args;

use super::catalogue::{CatalogueArgs, EXIT_USAGE};
use crate::triggers::DeadFilter;

/// Send a trigger's dead events again, or one event.
///
/// Each gets all its retries again. The command works through the database, not through the API; the nodes that deliver
/// are told at once.
#[derive(Args, Debug)]
pub struct RedeliverArgs {
    /// The trigger's name
    #[arg(value_name = "TRIGGER", required_unless_present = "event")]
    trigger: Option<String>,
    /// One event by its id, dead or delivered
    #[arg(long, value_name = "ID", conflicts_with_all = ["trigger", "since", "until", "status", "dry_run"])]
    event: Option<String>,
    /// Only events whose last attempt was at this time or later; UTC unless it says otherwise
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only events whose last attempt was before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only events whose last attempt was answered with this status; 0 for no answer
    #[arg(long, value_name = "STATUS")]
    status: Option<u16>,
    /// Only say how many they are
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    catalogue: CatalogueArgs,
}

/// Has events sent again.
///
/// # Errors
/// What keeps them from it; then none is.
pub async fn run(args: RedeliverArgs) -> anyhow::Result<ExitCode> {
    let Some(catalogue) = args.catalogue.open().await? else { return Ok(ExitCode::from(EXIT_USAGE)) };
    if let Some(event) = args.event {
        catalogue.redeliver(&event).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let filter = DeadFilter { since: args.since, until: args.until, status: args.status.map(i32::from) };
    let trigger = args.trigger.unwrap_or_default();
    let count = catalogue.redeliver_dead(&trigger, &filter, args.dry_run).await?;
    match args.dry_run {
        true => println!("{count} dead events would be sent again"),
        false => println!("{count} dead events are sent again"),
    }
    Ok(ExitCode::SUCCESS)
}
