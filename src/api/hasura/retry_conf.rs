//! `retry_conf`: Hasura's three keys, and walhook's own beside them.

use serde_json::Value;

use super::node::{DecodeError, Node};
use crate::model::{Backoff, RetryConf, Statuses};

/// More would mean a pause that is mostly chance.
const MOST_JITTER_PERCENT: u32 = 100;

/// Keys that are left out have the defaults of seed 003. Hasura's own decoder asks for two of them; its documentation
/// does not, and that is what is followed.
///
/// # Errors
/// What is wrong and where, in Hasura's form.
pub(super) fn decode(node: &Node<'_>) -> Result<RetryConf, DecodeError> {
    let object = node.object("RetryConf")?;
    let count = |key| object.optional(key).map(|node| node.count()).transpose();
    let default = RetryConf::default();
    let conf = RetryConf {
        num_retries: count("num_retries")?.unwrap_or(default.num_retries),
        interval_sec: count("interval_sec")?.unwrap_or(default.interval_sec),
        timeout_sec: count("timeout_sec")?.unwrap_or(default.timeout_sec),
        backoff: object.optional("backoff").map(|node| backoff(&node)).transpose()?.unwrap_or_default(),
        max_interval_sec: count("max_interval_sec")?,
        max_age_sec: count("max_age_sec")?,
        jitter_percent: count("jitter_percent")?,
        give_up_on: object.optional("give_up_on").map(|node| give_up_on(&node)).transpose()?.unwrap_or_default(),
    };
    if conf.jitter_percent.is_some_and(|percent| percent > MOST_JITTER_PERCENT) {
        return Err(object.required("jitter_percent")?.error("at most 100"));
    }
    if conf.max_interval_sec.is_some() && conf.backoff == Backoff::Fixed {
        let text = "max_interval_sec bounds a growing pause: set \"backoff\": \"exponential\", or leave it out";
        return Err(object.required("max_interval_sec")?.error(text));
    }
    Ok(conf)
}

fn backoff(node: &Node<'_>) -> Result<Backoff, DecodeError> {
    match node.text()? {
        "fixed" => Ok(Backoff::Fixed),
        "exponential" => Ok(Backoff::Exponential),
        _ => Err(node.error("expecting fixed or exponential")),
    }
}

fn give_up_on(node: &Node<'_>) -> Result<Vec<Statuses>, DecodeError> {
    let statuses = |node: &Node<'_>| {
        let statuses = match node.value {
            Value::String(text) => Statuses::class(text),
            _ => u16::try_from(node.count()?).ok().and_then(Statuses::one),
        };
        statuses.ok_or_else(|| node.error("expecting the status of a failure such as 422, or 3xx, 4xx or 5xx"))
    };
    node.array()?.iter().map(statuses).collect()
}
