//! When capture waits although it could go on. Under load, waking up for every change and committing every few of them
//! takes processor time from the walsender, which usually is the slowest part.

use std::time::Duration;

use tokio::time::Instant;

/// When so many changes come within one append, the next one waits [`APPEND_PAUSE`] for more. Slower streams never
/// wait.
const MANY_EVENTS: usize = 8;
const APPEND_PAUSE: Duration = Duration::from_millis(2);
/// When so many frames come within a [`READ_PAUSE`], frames that cannot be appended yet may gather for another one.
const MANY_FRAMES: u32 = 24;
const READ_PAUSE: Duration = Duration::from_millis(1);

pub(super) struct Pace {
    append_at: Instant,
    read_at: Instant,
    frames: u32,
    counted_since: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Pace { append_at: now, read_at: now, frames: 0, counted_since: now }
    }

    /// Notes that frames were taken in.
    pub(super) fn took(&mut self, frames: u32) {
        self.frames += frames;
        let now = Instant::now();
        if now - self.counted_since >= READ_PAUSE {
            if self.frames >= MANY_FRAMES {
                self.read_at = now + READ_PAUSE;
            }
            self.frames = 0;
            self.counted_since = now;
        }
    }

    /// Notes that so many events were appended.
    pub(super) fn appended(&mut self, events: usize) {
        if events >= MANY_EVENTS {
            self.append_at = Instant::now() + APPEND_PAUSE;
        }
    }

    /// No append before this, unless the chunk is full.
    pub(super) fn append_at(&self) -> Instant {
        self.append_at
    }

    /// No frame needs to be taken before this, as long as none can be appended.
    pub(super) fn read_at(&self) -> Instant {
        self.read_at
    }

    /// Ends the pause.
    pub(super) fn hurry(&mut self) {
        self.append_at = Instant::now();
    }
}
