//! `walhook backfill`: asks for a table's existing rows and shows how far they are.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use uuid::Uuid;

use crate::service::{self, Config, RawSettings, RawSource};
use crate::triggers::{BackfillStatus, Catalogue};

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

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Bad settings, as with `serve`.
const EXIT_USAGE: u8 = 2;

/// Asks for a backfill and, unless detached, waits for its end.
///
/// # Errors
/// What keeps it from being asked for, and why it failed.
pub async fn run(args: BackfillArgs) -> anyhow::Result<ExitCode> {
    let source = RawSource {
        database_url: args.database_url,
        database_url_file: args.database_url_file,
        database_password: args.database_password,
        database_password_file: args.database_password_file,
        ..RawSource::default()
    };
    let settings = RawSettings {
        source,
        queue_url: args.queue_url,
        queue_url_file: args.queue_url_file,
        queue_password: args.queue_password,
        queue_password_file: args.queue_password_file,
        ..RawSettings::default()
    };
    let config = match Config::load(settings, args.config.as_deref()) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("walhook: {problems}");
            return Ok(ExitCode::from(EXIT_USAGE));
        }
    };
    let catalogue = service::open_catalogue(&config, args.source.as_deref()).await?;
    let id = catalogue.start_backfill(&args.trigger, args.condition.as_deref()).await?;
    if args.detach {
        println!("{id}");
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("backfill {id} of {}; it goes on when this command is stopped", args.trigger);
    let ended = wait(&catalogue, id).await?;
    println!("{}", describe(&ended));
    match ended.error {
        Some(reason) => Err(anyhow::anyhow!("backfill {id} failed: {reason}")),
        None if ended.state == "done" => Ok(ExitCode::SUCCESS),
        None => Ok(ExitCode::FAILURE),
    }
}

/// Shows each change until the backfill is over.
async fn wait(catalogue: &Catalogue, id: Uuid) -> anyhow::Result<BackfillStatus> {
    let mut shown = String::new();
    loop {
        let found = catalogue.backfills(None, Some(id)).await?;
        let status = found.into_iter().next().ok_or_else(|| anyhow::anyhow!("backfill {id} is gone"))?;
        if status.is_over() {
            return Ok(status);
        }
        let text = describe(&status);
        if text != shown {
            eprintln!("{text}");
            shown = text;
        }
        tokio::time::sleep(LOOK_EVERY).await;
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
