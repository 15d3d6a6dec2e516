//! How much a trigger may ask of its endpoint.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What the definition says; where it says nothing, delivery's own limits hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Requests under way at a time, of all nodes together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
    /// Requests a second, of all nodes together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit_per_sec: Option<Rate>,
}

/// Requests a second, to a thousandth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Rate {
    thousandths: u32,
}

impl Rate {
    /// From 0.001 to 1,000,000 a second; `None` for anything else.
    pub fn per_second(rate: f64) -> Option<Rate> {
        let thousandths = (rate * 1000.0).round();
        // Within these bounds the conversion is exact.
        (1.0..=1e9).contains(&thousandths).then_some(Rate { thousandths: thousandths as u32 })
    }

    /// So many parts of it, rounded down; never less than the smallest rate.
    pub fn part(self, parts: usize, of: usize) -> Rate {
        let thousandths = u64::from(self.thousandths) * parts as u64 / of.max(1) as u64;
        Rate { thousandths: u32::try_from(thousandths).unwrap_or(self.thousandths).max(1) }
    }

    /// The time from one request to the next.
    pub fn interval(self) -> Duration {
        Duration::from_nanos(1_000_000_000_000 / u64::from(self.thousandths))
    }
}

impl TryFrom<f64> for Rate {
    type Error = &'static str;

    fn try_from(rate: f64) -> Result<Self, Self::Error> {
        Rate::per_second(rate).ok_or("a rate is from 0.001 to 1,000,000 a second")
    }
}

impl From<Rate> for f64 {
    fn from(rate: Rate) -> f64 {
        f64::from(rate.thousandths) / 1000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_may_be_fractional_and_has_bounds() {
        for (rate, interval) in [
            (0.001, Some(1_000_000_000)),
            (0.5, Some(2_000_000)),
            (1.0, Some(1_000_000)),
            (3.0, Some(333_333)),
            (1e6, Some(1)),
            (0.0, None),
            (0.0004, None),
            (-1.0, None),
            (1e6 + 1.0, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
        ] {
            let found = Rate::per_second(rate).map(|rate| rate.interval().as_micros());
            assert_eq!(found, interval, "{rate} a second");
        }
    }

    #[test]
    fn a_part_of_a_rate_is_never_more_than_its_part_and_never_none() {
        let rate = |rate| Rate::per_second(rate).expect("a rate");
        for (whole, parts, of, expected) in [
            (10.0, 16, 16, 10.0),
            (10.0, 5, 16, 3.125),
            (1e6, 5, 16, 312_500.0),
            (0.001, 5, 16, 0.001),
            (1.0, 0, 16, 0.001),
        ] {
            assert_eq!(rate(whole).part(parts, of), rate(expected), "{parts} of {of} parts of {whole}");
        }
    }

    #[test]
    fn what_was_not_given_is_not_stored_and_what_was_comes_back() {
        assert_eq!(serde_json::to_string(&Limits::default()).expect("JSON"), "{}");
        let limits = Limits { max_in_flight: Some(8), rate_limit_per_sec: Rate::per_second(2.5) };
        let stored = serde_json::to_string(&limits).expect("JSON");
        assert_eq!(stored, r#"{"max_in_flight":8,"rate_limit_per_sec":2.5}"#);
        assert_eq!(serde_json::from_str::<Limits>(&stored).expect("limits"), limits);
        let whole: Limits = serde_json::from_str(r#"{"rate_limit_per_sec":2}"#).expect("limits");
        assert_eq!(whole.rate_limit_per_sec, Rate::per_second(2.0));
        assert!(serde_json::from_str::<Limits>(r#"{"rate_limit_per_sec":0}"#).is_err());
    }
}
