//! Where a trigger's requests go, with everything resolved that can be.

use std::time::Duration;

use hyper::Uri;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, USER_AGENT,
};
use uuid::Uuid;

use crate::model::{BatchConf, Definition, Environment, OnDead, Ordering, RetryConf, Trigger};

/// A trigger as delivery uses it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The trigger.
    pub trigger_id: Uuid,
    /// Its name, for the payload and for messages.
    pub name: String,
    /// The resolved URL.
    pub url: Uri,
    /// The resolved headers, with walhook's own.
    pub headers: HeaderMap,
    /// When to try again, and how long an attempt may take.
    pub retry_conf: RetryConf,
    /// Whether the payload names the transaction.
    pub transaction: bool,
    /// Which events wait for the ones before them.
    pub ordering: Ordering,
    /// What becomes of those that wait for a dead one.
    pub on_dead: OnDead,
    /// Whether several events go in one request.
    pub batch: Option<BatchConf>,
}

/// These say how the request itself is sent; a configured one would break it and is left out.
const FRAMING: [HeaderName; 4] = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION];

const OWN_USER_AGENT: &str = concat!("walhook/", env!("CARGO_PKG_VERSION"));

impl Endpoint {
    /// Resolves a trigger's URL and headers against the environment.
    ///
    /// # Errors
    /// A sentence that names the variable or header at fault, never a value.
    pub fn resolve(trigger: &Trigger, environment: &Environment) -> Result<Self, String> {
        let definition = &trigger.definition;
        let url = environment.resolve_webhook(&definition.webhook).map_err(|error| error.to_string())?;
        Ok(Endpoint {
            trigger_id: trigger.id,
            name: definition.name.clone(),
            url: url.trim().parse().map_err(|_| "the resolved webhook is not a URL".to_owned())?,
            headers: resolve_headers(definition, environment)?,
            retry_conf: definition.retry_conf.clone(),
            transaction: definition.transaction,
            ordering: definition.ordering,
            on_dead: definition.on_dead,
            batch: definition.batch,
        })
    }

    /// How long one attempt may take. Zero would end every attempt before it starts.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.retry_conf.timeout_sec.max(1)))
    }
}

#[cfg(test)]
impl Endpoint {
    /// That of a trigger that says nothing special, for unit tests, which set what they are about.
    pub(super) fn example() -> Endpoint {
        Endpoint {
            trigger_id: Uuid::from_u128(7),
            name: "t".into(),
            url: Uri::from_static("http://localhost/"),
            headers: HeaderMap::new(),
            retry_conf: RetryConf::default(),
            transaction: false,
            ordering: Ordering::default(),
            on_dead: OnDead::default(),
            batch: None,
        }
    }
}

/// walhook's own headers are set last: a configured `Content-Type` or `User-Agent` has no effect, as in Hasura.
fn resolve_headers(definition: &Definition, environment: &Environment) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for header in &definition.headers {
        let name: HeaderName =
            header.name.parse().map_err(|_| format!("header name {:?} is not allowed", header.name))?;
        let value = environment.resolve_header(&header.value).map_err(|error| error.to_string())?;
        let mut value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| format!("the value of header {name} is not allowed"))?;
        value.set_sensitive(true);
        if !FRAMING.contains(&name) {
            headers.append(name, value);
        }
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(OWN_USER_AGENT));
    Ok(headers)
}
