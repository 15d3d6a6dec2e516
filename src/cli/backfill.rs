//! `walhook backfill`: asks for a table's existing rows and shows how far they are.

use std::process::ExitCode;

use clap::Args;

use super::catalogue::{CatalogueArgs, EXIT_USAGE, follow};
use crate::triggers::BackfillStatus;

/// Send the existing rows of a trigger's table.
///
/// Each row comes as an INSERT event marked `backfill`, unless the trigger gets a newer event of it meanwhile. The
/// command works through the database, not through the API: it asks there, and the node that captures the source does
/// the work, also when this command is stopped. `cancel_backfill` of the API ends it.
#[derive(Args, Debug)]
pub struct BackfillArgs {
    /// The trigger's name
    #[arg(value_name = "TRIGGER")]
    trigger: String,
    /// Only rows for which this holds: SQL over the table's columns, run in the source by walhook's role in a
    /// transaction that can only read. Names outside pg_catalog need their schema
    #[arg(long = "where", value_name = "SQL")]
    condition: Option<String>,
    /// Only ask for it and print its id; otherwise wait and show progress
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    catalogue: CatalogueArgs,
}

/// Asks for a backfill and, unless detached, waits for its end.
///
/// # Errors
/// What keeps it from being asked for, and why it failed.
pub async fn run(args: BackfillArgs) -> anyhow::Result<ExitCode> {
    let Some(catalogue) = args.catalogue.open().await? else { return Ok(ExitCode::from(EXIT_USAGE)) };
    let id = catalogue.start_backfill(&args.trigger, args.condition.as_deref()).await?;
    if args.detach {
        println!("{id}");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("backfill {id} of {}; it goes on when this command is stopped", args.trigger);
    let look = async || catalogue.backfills(None, Some(id)).await;
    let ended = follow(&format!("backfill {id}"), look, BackfillStatus::is_over, describe).await?;
    match ended.error {
        Some(reason) => Err(anyhow::anyhow!("backfill {id} failed: {reason}")),
        None if ended.state == "done" => Ok(ExitCode::SUCCESS),
        None => Ok(ExitCode::FAILURE),
    }
}

fn describe(status: &BackfillStatus) -> String {
    let BackfillStatus { state, looked_at, sent, superseded, estimated_rows, .. } = status;
    let of = estimated_rows.map(|rows| format!(" of about {rows}")).unwrap_or_default();
    let newer = if *superseded > 0 { format!(", {superseded} had newer events") } else { String::new() };
    format!("{state}: {looked_at} rows{of} looked at, {sent} sent{newer}")
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn progress_says_what_was_sent_and_what_was_not() {
        let status = BackfillStatus {
            id: Uuid::nil(),
            trigger: "t".into(),
            condition: None,
            state: "running".into(),
            estimated_rows: Some(50),
            looked_at: 20,
            sent: 12,
            superseded: 3,
            requested_at: String::new(),
            ended_at: None,
            error: None,
        };
        assert_eq!(describe(&status), "running: 20 rows of about 50 looked at, 12 sent, 3 had newer events");
        let plain = BackfillStatus { estimated_rows: None, superseded: 0, state: "done".into(), ..status };
        assert_eq!(describe(&plain), "done: 20 rows looked at, 12 sent");
    }
}
