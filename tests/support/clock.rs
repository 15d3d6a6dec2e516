//! The wall clock of a walhook, which a test sets while it runs: NTP that steps it, a machine that was never set. The
//! steady clock, by which timeouts and pauses pass, is left alone. Linux only, by libfaketime.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

/// How far it is from the machine's own. Nodes that have clones of one share it, as on one machine.
#[derive(Clone, Debug)]
pub struct Clock {
    directory: Arc<TempDir>,
}

impl Clock {
    /// One that is so many seconds ahead of the machine's; behind where negative.
    pub fn ahead_by(seconds: i64) -> Clock {
        let clock = Clock { directory: Arc::new(tempfile::tempdir().expect("a temporary directory")) };
        clock.set_ahead_by(seconds);
        clock
    }

    /// Steps it, for all that run by it.
    pub fn set_ahead_by(&self, seconds: i64) {
        // A reader never sees a part of it.
        let written = self.directory.path().join("written");
        std::fs::write(&written, format!("{seconds:+}\n")).expect("an offset");
        std::fs::rename(written, self.offset()).expect("an offset");
    }

    /// Runs a program by this clock; its process id is the command's.
    pub(super) fn command(&self, program: &str) -> Command {
        // Not set for the shell that starts the command: it would make the memory that is named after a process id.
        let mut command = Command::new("env");
        command
            .arg(format!("LD_PRELOAD={}", library().display()))
            .arg(format!("FAKETIME_TIMESTAMP_FILE={}", self.offset().display()))
            // The file is read anew with each look at the clock.
            .arg("FAKETIME_NO_CACHE=1")
            .arg("FAKETIME_DONT_FAKE_MONOTONIC=1")
            .arg("NO_FAKE_STAT=1")
            .arg(program);
        command
    }

    fn offset(&self) -> PathBuf {
        self.directory.path().join("offset")
    }
}

/// The library's shared memory, which it leaves behind when its process is killed. The next one with the same process
/// id would not start. Removes it when dropped.
pub(super) struct SharedMemory(pub(super) u32);

impl Drop for SharedMemory {
    fn drop(&mut self) {
        for name in ["faketime_shm", "sem.faketime_sem"] {
            // It is gone where the process ended in order.
            drop(std::fs::remove_file(format!("/dev/shm/{name}_{}", self.0)));
        }
    }
}

/// Where distributions put it.
fn library() -> PathBuf {
    let of_machine = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let directories = [&of_machine, "/usr/lib64", "/usr/lib", "/usr/local/lib"];
    let libraries = directories.map(|directory| Path::new(directory).join("faketime/libfaketimeMT.so.1"));
    libraries.into_iter().find(|path| path.exists()).expect("libfaketime is missing; `make setup` installs it")
}
