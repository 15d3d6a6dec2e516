//! `max_in_flight` and `rate_limit_per_sec`, walhook's own keys of a trigger.

use super::node::{DecodeError, Object};
use crate::model::{Limits, Rate};

/// Each takes memory and a connection; walhook's limit for all triggers together is lower unless it was raised.
const MOST_IN_FLIGHT: u32 = 10_000;

/// # Errors
/// What is wrong and where, in Hasura's form.
pub(super) fn decode(object: &Object<'_>) -> Result<Limits, DecodeError> {
    let mut limits = Limits::default();
    if let Some(node) = object.optional("max_in_flight") {
        let count = node.count()?;
        if !(1..=MOST_IN_FLIGHT).contains(&count) {
            return Err(node.error(format!("from 1 to {MOST_IN_FLIGHT}; to send nothing, pause the trigger")));
        }
        limits.max_in_flight = Some(count);
    }
    if let Some(node) = object.optional("rate_limit_per_sec") {
        let rate = node.value.as_f64().and_then(Rate::per_second);
        let text = "expecting requests a second, from 0.001 to 1000000; to send nothing, pause the trigger";
        limits.rate_limit_per_sec = Some(rate.ok_or_else(|| node.error(text))?);
    }
    Ok(limits)
}
