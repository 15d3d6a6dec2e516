//! `batch`, walhook's own key of a trigger.

use super::node::{DecodeError, Node, Object};
use crate::model::BatchConf;

/// # Errors
/// What is wrong and where, in Hasura's form.
pub(super) fn decode(node: &Node<'_>) -> Result<BatchConf, DecodeError> {
    let object = node.object("BatchConf")?;
    let max_events = within(&object.required("max_events")?, 1, BatchConf::MOST_EVENTS)?;
    Ok(BatchConf {
        max_events,
        max_wait_ms: optional(&object, "max_wait_ms", 0, BatchConf::LONGEST_WAIT_MS)?
            .unwrap_or(BatchConf::DEFAULT_WAIT_MS),
        max_bytes: optional(&object, "max_bytes", BatchConf::FEWEST_BYTES, BatchConf::MOST_BYTES)?
            .unwrap_or(BatchConf::DEFAULT_BYTES),
    })
}

fn optional(object: &Object<'_>, key: &str, least: u32, most: u32) -> Result<Option<u32>, DecodeError> {
    object.optional(key).map(|node| within(&node, least, most)).transpose()
}

fn within(node: &Node<'_>, least: u32, most: u32) -> Result<u32, DecodeError> {
    let count = node.count()?;
    if (least..=most).contains(&count) { Ok(count) } else { Err(node.error(format!("from {least} to {most}"))) }
}
