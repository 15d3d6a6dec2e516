//! `walhook demo` as a user runs it: it shows every webhook, ends in time, and leaves nothing behind however it ends.

mod support;

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use support::wait::eventually;
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use walhook::postgres::cluster::{Leash, Leashed};

/// What the demo promises.
const ENDS_WITHIN: Duration = Duration::from_secs(15);
/// A debug build on a busy machine, at the end of a signal.
const CLEANED_WITHIN: Duration = Duration::from_secs(20);

/// One at a time: what the demo promises is for a machine that does nothing else.
static TURN: Mutex<()> = Mutex::const_new(());

/// A demo whose temporary files all go to a directory of its own.
struct Demo {
    leash: Leash,
    temporary: TempDir,
    output: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Demo {
    async fn start(arguments: &[&str]) -> Demo {
        let turn = TURN.lock().await;
        let (temporary, output) =
            (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        // As /tmp is: when this runs as root, Postgres runs as somebody else, who must be able to enter and clean up.
        std::fs::set_permissions(temporary.path(), PermissionsExt::from_mode(0o1777)).expect("permissions");
        let mut command = Command::new(env!("CARGO_BIN_EXE_walhook"));
        command.arg("demo").args(arguments).env("TMPDIR", temporary.path());
        let log = File::create(output.path().join("output")).expect("a file");
        let leash = Leash::hold(Leashed { command, log, signal: "KILL", directory: None, user: None });
        Demo { leash: leash.expect("a process"), temporary, output, _turn: turn }
    }

    fn output(&self) -> String {
        std::fs::read_to_string(self.output.path().join("output")).expect("the demo's output")
    }

    async fn shows(&mut self, text: &str) {
        let demo = &*self;
        let check = || async { demo.output().contains(text).then_some(()).ok_or_else(|| demo.output()) };
        eventually(text, CLEANED_WITHIN, check).await;
    }

    async fn ends(&mut self) -> ExitStatus {
        let status = self.leash.wait(CLEANED_WITHIN).await;
        status.unwrap_or_else(|| panic!("the demo did not end:\n{}", self.output()))
    }

    /// The cluster's own processes hold its directory, so an empty directory means that they are gone, too.
    async fn leaves_nothing(&self) {
        let path: &Path = self.temporary.path();
        let check = || async {
            let left: Vec<_> =
                std::fs::read_dir(path).expect("the directory").flatten().map(|one| one.path()).collect();
            if left.is_empty() { Ok(()) } else { Err(left) }
        };
        eventually("nothing is left behind", CLEANED_WITHIN, check).await;
    }
}

#[tokio::test]
async fn the_demo_shows_every_webhook_and_ends_by_itself() {
    let mut demo = Demo::start(&[]).await;
    let started = Instant::now();
    let status = demo.ends().await;
    let (output, took) = (demo.output(), started.elapsed());
    assert!(status.success(), "{status}\n{output}");
    assert!(took < ENDS_WITHIN, "the demo took {took:?}\n{output}");
    assert_eq!(output.matches("✓ 204").count(), 9, "{output}");
    assert_eq!(output.matches("✗ 500").count(), 2, "{output}");
    assert!(output.contains("attempt 3 of 4") && output.contains("from walhook.status"), "{output}");
    assert!(!output.contains('\x1b'), "colours where no terminal is:\n{output}");
    demo.leaves_nothing().await;
}

#[tokio::test]
async fn a_kept_demo_runs_until_it_is_stopped() {
    let mut demo = Demo::start(&["--keep"]).await;
    demo.shows("Running until Ctrl-C").await;
    demo.leash.signal("INT");
    assert!(demo.ends().await.success(), "{}", demo.output());
    demo.leaves_nothing().await;
}

#[tokio::test]
async fn a_demo_that_is_stopped_early_says_so_and_leaves_nothing() {
    let mut demo = Demo::start(&[]).await;
    demo.shows("A row is inserted").await;
    demo.leash.signal("TERM");
    assert!(!demo.ends().await.success(), "{}", demo.output());
    assert!(demo.output().contains("before the demo was over"), "{}", demo.output());
    demo.leaves_nothing().await;
}

#[tokio::test]
async fn a_killed_demo_leaves_nothing() {
    let mut demo = Demo::start(&["--keep"]).await;
    demo.shows("A row is inserted").await;
    demo.leash.signal("KILL");
    demo.ends().await;
    demo.leaves_nothing().await;
}
