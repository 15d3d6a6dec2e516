//! What broke in a round, and when.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, by the machine's clock, which is also Postgres' and the receiver's; in microseconds.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_micros() as i64
}

/// Its diary is shown when the test fails.
#[derive(Debug, Default)]
pub struct Damage {
    /// kill -9.
    pub kills: usize,
    /// Wall clocks that were set while their node ran.
    pub steps: usize,
    /// Rounds of retention that took away the partition that walhook was writing to.
    pub dropped: usize,
    /// How often what was under way may have been sent again.
    pub interruptions: usize,
    diary: Vec<(i64, String)>,
}

impl Damage {
    /// What follows is done from now on.
    pub fn note(&mut self, what: String) {
        self.note_at(now(), what);
    }

    /// What happened at another time.
    pub fn note_at(&mut self, at: i64, what: String) {
        self.diary.push((at, what));
    }

    /// A node ended without having been asked to, or was killed.
    pub fn ended(&mut self, what: String) {
        self.interruptions += 1;
        self.note(what);
    }

    /// Old partitions were dropped at these times.
    pub fn dropped(&mut self, times: Vec<i64>) {
        self.dropped = times.len();
        self.interruptions += times.len();
        self.diary.extend(times.into_iter().map(|at| (at, "a partition was dropped".to_owned())));
    }
}

impl Drop for Damage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.diary.sort();
            self.diary.iter().for_each(|(at, what)| println!("--- {at}: {what}"));
        }
    }
}
