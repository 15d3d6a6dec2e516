//! Where in a source's WAL, and when.

use std::fmt;

use chrono::{DateTime, Datelike, Timelike};

/// A byte position in the WAL. Displays as Postgres does: two hexadecimal halves, `16/B374D848`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// How many bytes `self` is ahead of `earlier`; zero when it is not.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// The total order of changes in a source: the commit's LSN, then the change's ordinal inside the transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// LSN of the transaction's commit record.
    pub commit_lsn: Lsn,
    /// Counts the changes of one transaction from 1, whether a trigger watches them or not.
    pub ordinal: u64,
}

/// A moment in microseconds since 1970-01-01 UTC, the resolution of Postgres.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// Microseconds from the Unix epoch to 2000-01-01, where Postgres starts counting.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;
const DAY_MICROS: i64 = 86_400_000_000;

impl Timestamp {
    /// The present, by this machine's clock.
    pub fn now() -> Self {
        Timestamp(chrono::Utc::now().timestamp_micros())
    }

    /// From the count that Postgres sends: microseconds since 2000-01-01 UTC.
    pub fn from_postgres_micros(micros: i64) -> Self {
        Timestamp(micros.saturating_add(POSTGRES_EPOCH_MICROS))
    }

    /// The count that Postgres' binary `timestamptz` holds.
    pub fn to_postgres_micros(self) -> i64 {
        self.0.saturating_sub(POSTGRES_EPOCH_MICROS)
    }

    /// Milliseconds since the Unix epoch, rounded down; zero before it.
    pub fn unix_millis(self) -> u64 {
        u64::try_from(self.0.div_euclid(1000)).unwrap_or(0)
    }

    /// Whole days since the Unix epoch, in UTC: the partition an event or attempt belongs to.
    pub fn unix_day(self) -> i64 {
        self.0.div_euclid(DAY_MICROS)
    }

    /// The start of a day that is counted as [`Timestamp::unix_day`] does.
    pub fn at_unix_day(day: i64) -> Self {
        Timestamp(day.saturating_mul(DAY_MICROS))
    }

    /// This moment and some seconds more.
    pub fn plus_seconds(self, seconds: u64) -> Self {
        let micros = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        Timestamp(self.0.saturating_add(micros))
    }
}

/// `2018-09-05T07:14:21.601701Z`: UTC with all six digits, as seed 004 shows `created_at`.
impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = DateTime::from_timestamp_micros(self.0).unwrap_or_default();
        write!(
            out,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
            moment.year(),
            moment.month(),
            moment.day(),
            moment.hour(),
            moment.minute(),
            moment.second(),
            moment.nanosecond() / 1000
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_prints_as_postgres_does() {
        assert_eq!(Lsn(0).to_string(), "0/0");
        assert_eq!(Lsn(0x16_b374_d848).to_string(), "16/B374D848");
        assert_eq!(Lsn(u64::MAX).to_string(), "FFFFFFFF/FFFFFFFF");
    }

    #[test]
    fn timestamp_prints_as_the_payload_documents() {
        assert_eq!(Timestamp(1_536_131_661_601_701).to_string(), "2018-09-05T07:14:21.601701Z");
        assert_eq!(Timestamp::from_postgres_micros(0).to_string(), "2000-01-01T00:00:00.000000Z");
        assert_eq!(Timestamp::from_postgres_micros(5).to_postgres_micros(), 5);
    }

    #[test]
    fn days_are_counted_in_utc_also_before_1970() {
        assert_eq!(Timestamp(-1).unix_day(), -1);
        assert_eq!(Timestamp(DAY_MICROS).unix_day(), 1);
    }
}
