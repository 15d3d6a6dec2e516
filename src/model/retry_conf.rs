//! When a trigger's failed deliveries are tried again.

use serde::{Deserialize, Serialize};

/// Hasura's default pause between two attempts, in seconds (seed 003, `RetryConf`).
pub const DEFAULT_INTERVAL_SEC: u32 = 10;
/// Hasura's default time for one attempt, in seconds (seed 003, `RetryConf`).
pub const DEFAULT_TIMEOUT_SEC: u32 = 60;
/// What `jitter_percent` is under exponential backoff unless given: events that failed together do not come back
/// together. A fixed interval has none, as in Hasura.
const EXPONENTIAL_JITTER_PERCENT: u32 = 20;
/// What `max_interval_sec` is unless given.
const MAX_INTERVAL_SEC: u32 = 60 * 60;

/// Hasura's `retry_conf`, and beside its three keys walhook's own. Left alone, those change nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryConf {
    /// Attempts after the first one.
    pub num_retries: u32,
    /// Seconds between the end of one attempt and the next; under exponential backoff, the first such pause.
    pub interval_sec: u32,
    /// Seconds one attempt may take.
    pub timeout_sec: u32,
    /// How the pauses grow.
    #[serde(default, skip_serializing_if = "Backoff::is_fixed")]
    pub backoff: Backoff,
    /// The longest pause that exponential backoff comes to, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_interval_sec: Option<u32>,
    /// Seconds after its commit in which an event may be tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_sec: Option<u32>,
    /// Up to this part of a pause is added to it by chance, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter_percent: Option<u32>,
    /// Statuses after which an event is not tried again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub give_up_on: Vec<Statuses>,
}

impl Default for RetryConf {
    fn default() -> Self {
        RetryConf {
            num_retries: 0,
            interval_sec: DEFAULT_INTERVAL_SEC,
            timeout_sec: DEFAULT_TIMEOUT_SEC,
            backoff: Backoff::Fixed,
            max_interval_sec: None,
            max_age_sec: None,
            jitter_percent: None,
            give_up_on: Vec::new(),
        }
    }
}

impl RetryConf {
    /// The pause before the next attempt, in seconds, when so many came before the one that failed.
    pub fn pause_sec(&self, number: u32) -> u32 {
        match self.backoff {
            Backoff::Fixed => self.interval_sec,
            Backoff::Exponential => {
                let factor = 1_u32.checked_shl(number).unwrap_or(u32::MAX);
                // A first pause that is longer than the longest is what the user asked for.
                let longest = self.max_interval_sec.unwrap_or(MAX_INTERVAL_SEC).max(self.interval_sec);
                self.interval_sec.saturating_mul(factor).min(longest)
            }
        }
    }

    /// How much of a pause chance may add to it, in percent.
    pub fn jitter_percent(&self) -> u32 {
        self.jitter_percent.unwrap_or(match self.backoff {
            Backoff::Fixed => 0,
            Backoff::Exponential => EXPONENTIAL_JITTER_PERCENT,
        })
    }

    /// Whether this status ends the retries at once.
    pub fn gives_up_on(&self, status: u16) -> bool {
        self.give_up_on.iter().any(|statuses| statuses.contain(status))
    }
}

/// How the pauses between attempts grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backoff {
    /// Not at all, as in Hasura.
    #[default]
    Fixed,
    /// Each is twice the one before.
    Exponential,
}

impl Backoff {
    fn is_fixed(&self) -> bool {
        *self == Backoff::Fixed
    }
}

/// One HTTP status, or all of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StatusesForm", into = "StatusesForm")]
pub enum Statuses {
    /// Such as 422.
    One(u16),
    /// Such as 4, written `4xx`.
    Class(u16),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StatusesForm {
    Number(u16),
    Text(String),
}

impl Statuses {
    /// A status that is a failure.
    pub fn one(status: u16) -> Option<Self> {
        (100..=599).contains(&status).then_some(Statuses::One(status)).filter(|_| !(200..300).contains(&status))
    }

    /// A class of failures: `3xx`, `4xx` or `5xx`.
    pub fn class(text: &str) -> Option<Self> {
        ["3xx", "4xx", "5xx"].iter().position(|class| *class == text).map(|index| Statuses::Class(index as u16 + 3))
    }

    fn contain(self, status: u16) -> bool {
        match self {
            Statuses::One(one) => one == status,
            Statuses::Class(class) => class == status / 100,
        }
    }
}

impl TryFrom<StatusesForm> for Statuses {
    type Error = &'static str;

    fn try_from(form: StatusesForm) -> Result<Self, Self::Error> {
        let statuses = match form {
            StatusesForm::Number(status) => Statuses::one(status),
            StatusesForm::Text(text) => Statuses::class(&text),
        };
        statuses.ok_or("neither a status of a failure nor 3xx, 4xx or 5xx")
    }
}

impl From<Statuses> for StatusesForm {
    fn from(statuses: Statuses) -> Self {
        match statuses {
            Statuses::One(status) => StatusesForm::Number(status),
            Statuses::Class(class) => StatusesForm::Text(format!("{class}xx")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_pauses_double_up_to_the_longest() {
        let conf = |max_interval_sec| RetryConf {
            interval_sec: 10,
            backoff: Backoff::Exponential,
            max_interval_sec,
            ..Default::default()
        };
        let pauses = |conf: RetryConf| [0, 1, 2, 3, 31, 32, u32::MAX].map(|number| conf.pause_sec(number));
        assert_eq!(pauses(conf(Some(60))), [10, 20, 40, 60, 60, 60, 60]);
        assert_eq!(pauses(conf(None)), [10, 20, 40, 80, 3600, 3600, 3600]);
        assert_eq!(pauses(conf(Some(5))), [10; 7]);
        assert_eq!(pauses(RetryConf::default()), [10; 7]);
    }

    #[test]
    fn what_was_not_given_is_not_stored_and_what_was_comes_back() {
        let stored = serde_json::to_string(&RetryConf::default()).expect("JSON");
        assert_eq!(stored, r#"{"num_retries":0,"interval_sec":10,"timeout_sec":60}"#);
        let conf = RetryConf {
            backoff: Backoff::Exponential,
            max_interval_sec: Some(60),
            max_age_sec: Some(3600),
            jitter_percent: Some(0),
            give_up_on: vec![Statuses::One(422), Statuses::Class(4)],
            ..Default::default()
        };
        let stored = serde_json::to_string(&conf).expect("JSON");
        assert_eq!(serde_json::from_str::<RetryConf>(&stored).expect("a conf"), conf, "{stored}");
    }
}
