//! A child process that cannot outlive us, however we end.
//!
//! A destructor does not run when we are killed with signal 9, and the ways of the kernel to tie a child to its parent
//! need unsafe code or are Linux' own. A pipe is enough: its writing end is closed by the kernel whatever happened to
//! us. So a child runs under a shell that waits for that, then ends the child and removes its directory.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// `$1`: the signal that ends the child, `$2`: the directory to remove when the leash was torn or empty, the rest: the
/// child's command line. File descriptor 3 is the pipe, 4 tells our side the child's process id.
///
/// The shell waits for the child, so it ends with the child's status; its watcher waits for the pipe. A watcher that
/// saw the pipe close ignores the shell's TERM, so its own status 0 tells the shell that the directory is nobody's. The
/// shell's own words about ended jobs do not belong in the child's log, so it falls silent once both are started.
const SHELL: &str = r#"
signal=$1 directory=$2
shift 2
exec 3<&0 4>&1 1>&2 </dev/null
"$@" 3<&- 4>&- &
child=$!
echo "$child" >&4
exec 4>&-
(
    read -r _ <&3
    trap '' TERM
    kill -s "$signal" "$child" 2>/dev/null
    exit 0
) 2>/dev/null &
watcher=$!
exec 3<&- 2>/dev/null
wait "$child"
status=$?
kill "$watcher"
if wait "$watcher" && [ -n "$directory" ]; then rm -rf "$directory"; fi
exit "$status"
"#;

/// How often an ending process is looked at: there is no way to wait for a child with a deadline without unsafe code.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// After this long an ending child is killed.
const KILL_AFTER: Duration = Duration::from_secs(5);

/// What to run on a leash.
#[derive(Debug)]
pub struct Leashed<'a> {
    /// Program, arguments, environment. Its standard streams and process group are set here.
    pub command: Command,
    /// Gets the child's standard output and error.
    pub log: File,
    /// Name of the signal that ends the child when the leash is dropped, such as `TERM`.
    pub signal: &'static str,
    /// Removed when the leash is dropped or we die.
    pub directory: Option<&'a Path>,
    /// User and group to run as, where we are root and the child must not be.
    pub user: Option<(u32, u32)>,
}

/// Holds a running child. Dropping it ends the child and waits for that.
#[derive(Debug)]
pub struct Leash {
    shell: Child,
    process_id: u32,
    ended: Option<ExitStatus>,
}

impl Leash {
    /// Starts the child, in a process group of its own so that a terminal's Ctrl-C reaches us alone.
    ///
    /// # Errors
    /// Where the shell does not start. A program that is missing shows as a child that ends with status 127.
    pub fn hold(what: Leashed<'_>) -> std::io::Result<Leash> {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", SHELL, "walhook-leash", what.signal]).arg(what.directory.unwrap_or(Path::new("")));
        shell.arg(what.command.get_program()).args(what.command.get_args());
        for (name, value) in what.command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        // The directory we were started in may be closed to the child's user.
        shell.current_dir(what.command.get_current_dir().unwrap_or(Path::new("/")));
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(what.log).process_group(0);
        if let Some((user, group)) = what.user {
            shell.uid(user).gid(group);
        }
        let mut shell = shell.spawn()?;
        let stdout = shell.stdout.take().expect("standard output is piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let process_id = line.trim().parse().map_err(|_| std::io::Error::other("the shell did not start the child"))?;
        Ok(Leash { shell, process_id, ended: None })
    }

    /// The child itself, not its shell.
    pub fn process_id(&self) -> u32 {
        self.process_id
    }

    /// How the child ended, or `None` while it runs. A child ended by signal n shows as status 128 + n.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.shell.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Waits until the child ended by itself or through a signal; `None` when it did not within `deadline`.
    pub async fn wait(&mut self, deadline: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + deadline;
        loop {
            let ended = self.try_wait();
            if ended.is_some() || Instant::now() >= end {
                return ended;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Sends the child a signal by name, such as `TERM` or `KILL`. Nothing happens when it ended already.
    pub fn signal(&mut self, name: &str) {
        if self.try_wait().is_none() {
            send(name, &self.process_id.to_string());
        }
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        if self.try_wait().is_some() {
            return;
        }
        drop(self.shell.stdin.take());
        let end = Instant::now() + KILL_AFTER;
        while self.try_wait().is_none() {
            if Instant::now() >= end {
                // The whole group: the shell, its watcher and the child.
                send("KILL", &format!("-{}", self.shell.id()));
                drop(self.shell.wait());
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Through the shell's own `kill`: the system call needs unsafe code, and small images have no program of that name.
fn send(signal: &str, target: &str) {
    let mut kill = Command::new("/bin/sh");
    kill.args(["-c", r#"kill -s "$1" -- "$2""#, "kill", signal, target])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    drop(kill.status());
}

/// The number of the signal that ended the child, seen through its shell.
pub fn ending_signal(status: ExitStatus) -> Option<i32> {
    status.signal().or_else(|| status.code().filter(|code| *code > 128).map(|code| code - 128))
}

/// Who owns a file that this process made: the user it runs as.
pub(super) fn owner(path: &Path) -> std::io::Result<u32> {
    Ok(std::fs::metadata(path)?.uid())
}

/// The last lines of a log, for an error's text.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Writes one line to a file that must not be read by others.
pub(super) fn write_private(path: &Path, line: &str) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{line}")
}
