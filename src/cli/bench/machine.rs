//! What this runs on, and what a process used of it. Linux' `/proc` tells; elsewhere these figures are left out.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Of `/proc/<pid>/stat`; the same on every Linux that this can run on.
const TICKS_A_SECOND: u64 = 100;

/// What figures are to be read beside.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    pub cores: usize,
    pub memory_mib: Option<u64>,
    pub processor: Option<String>,
    pub postgres: String,
    pub walhook: &'static str,
    pub build: &'static str,
}

impl Machine {
    /// Looks at this machine.
    pub fn look(postgres: &str) -> Machine {
        let (memory, processors) = (read("/proc/meminfo"), read("/proc/cpuinfo"));
        Machine {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: kibibytes(&memory, "MemTotal").map(|amount| amount / 1024),
            processor: field(&processors, "model name").map(str::to_owned),
            postgres: postgres.to_owned(),
            walhook: env!("CARGO_PKG_VERSION"),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
        }
    }

    /// Figures of a debug build say nothing.
    pub fn is_debug(&self) -> bool {
        self.build == "debug"
    }
}

/// How long a value takes from one core to another and back; nothing of one core. What several processes or threads
/// have in common costs as much, and the host of a virtual machine may move its cores apart and together while it is
/// measured.
pub(super) fn between_cores() -> Option<Duration> {
    const TRIPS: u32 = 20_000;
    const SPINS: u64 = 1_000;
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return None;
    }
    let turn = AtomicU32::new(0);
    let wait_for = |value: u32| {
        for spin in 1_u64.. {
            if turn.load(Acquire) == value {
                return;
            }
            // Both may be on one core.
            if spin % SPINS == 0 { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for trip in 0..TRIPS {
                wait_for(2 * trip + 1);
                turn.store(2 * trip + 2, Release);
            }
        });
        let started = Instant::now();
        for trip in 0..TRIPS {
            turn.store(2 * trip + 1, Release);
            wait_for(2 * trip + 2);
        }
        Some(started.elapsed() / TRIPS)
    })
}

/// The most memory a process has had, in MiB.
pub(super) fn peak_memory_mib(process: u32) -> Option<f64> {
    kibibytes(&read(&format!("/proc/{process}/status")), "VmHWM").map(|amount| amount as f64 / 1024.0)
}

/// CPU time a process has used, without its children.
pub(super) fn cpu_time(process: u32) -> Duration {
    Stat::of(process).map_or(Duration::ZERO, |stat| ticks(stat.own))
}

/// CPU time a process and all children it has or had have used.
pub(super) fn cpu_time_of_family(process: u32) -> Duration {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Duration::ZERO };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let children = numbers.filter_map(Stat::of).filter(|stat| stat.parent == process).map(|stat| stat.own).sum::<u64>();
    Stat::of(process).map_or(Duration::ZERO, |stat| ticks(stat.own + stat.ended_children + children))
}

struct Stat {
    parent: u32,
    own: u64,
    ended_children: u64,
}

impl Stat {
    fn of(process: u32) -> Option<Stat> {
        Stat::parse(&read(&format!("/proc/{process}/stat")))
    }

    fn parse(text: &str) -> Option<Stat> {
        // The name before it stands in parentheses and may hold anything.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Stat {
            parent: fields.get(1)?.parse().ok()?,
            own: number(11)? + number(12)?,
            ended_children: number(13)? + number(14)?,
        })
    }
}

fn ticks(count: u64) -> Duration {
    Duration::from_millis(count * 1000 / TICKS_A_SECOND)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

fn kibibytes(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_by_name() {
        let text = "Name:\twalhook\nVmPeak:\t  999 kB\nVmHWM:\t  20480 kB\n";
        assert_eq!(kibibytes(text, "VmHWM"), Some(20_480));
        assert_eq!(field("model name\t: Some CPU @ 2GHz\n", "model name"), Some("Some CPU @ 2GHz"));
        assert_eq!(kibibytes(text, "VmRSS"), None);
    }

    #[test]
    fn a_name_with_blanks_and_parentheses_does_not_shift_the_fields() {
        let text = "42 (a (b) c) S 7 0 0 0 0 0 0 0 0 0 150 50 3 4 20 0";
        let stat = Stat::parse(text).expect("fields");
        assert_eq!((stat.parent, stat.own, stat.ended_children), (7, 200, 7));
        assert_eq!(ticks(stat.own), Duration::from_secs(2));
    }
}
