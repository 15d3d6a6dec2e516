//! Plain data that every room shares. No I/O, no async, no SQL.

mod attempt;
mod batch_conf;
mod event;
mod lane_set;
mod limits;
mod ordering;
mod position;
mod retry_conf;
mod subject;
mod table;
mod template;
mod trigger;

pub use attempt::{Attempt, Failure, FailureKind, Outcome, Response, Verdict};
pub use batch_conf::BatchConf;
pub use event::{
    Event, EventId, LANES, Lane, Operation, RowHash, derive_event_id, derive_row_hash, lane_of, trigger_lane,
};
pub use lane_set::{LaneSet, fair_share};
pub use limits::{Limits, Rate};
pub use ordering::{OnDead, Ordering, WHOLE_TRIGGER};
pub use position::{Lsn, Position, Timestamp};
pub use retry_conf::{Backoff, DEFAULT_INTERVAL_SEC, DEFAULT_TIMEOUT_SEC, RetryConf, Statuses};
pub use subject::{EVENT_TYPE_LIMIT, Subject};
pub use table::TableName;
pub use template::{
    Environment, Place, RESERVED_PREFIXES, TemplateError, check_template, check_variable, resolve_template,
    resolve_variable,
};
pub use trigger::{Columns, Definition, Header, HeaderValue, OperationSpec, Operations, Trigger, Webhook};
