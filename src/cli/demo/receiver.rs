//! The webhooks' receiver: accepts everything, but for one path that first fails.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use chrono::Utc;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::payload::Arrival;
use super::shop::{FAILING_TWICE, FAILURES};

/// Arrivals that were not printed yet; more of them wait in their requests.
const UNPRINTED: usize = 256;

/// Runs until it is dropped.
pub(super) struct Receiver {
    port: u16,
    arrivals: mpsc::Receiver<anyhow::Result<Arrival>>,
    _server: AbortOnDropHandle<()>,
}

#[derive(Clone)]
struct Inbox {
    arrivals: mpsc::Sender<anyhow::Result<Arrival>>,
    /// Attempts by event, on the path that fails.
    attempts: Arc<Mutex<HashMap<String, u64>>>,
}

impl Receiver {
    /// Listens on a free port of 127.0.0.1.
    pub async fn start() -> anyhow::Result<Receiver> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no free port for the receiver")?;
        let port = listener.local_addr().context("the receiver has no address")?.port();
        let (sender, arrivals) = mpsc::channel(UNPRINTED);
        let inbox = Inbox { arrivals: sender, attempts: Arc::default() };
        let router = Router::new().fallback(receive).with_state(inbox);
        let server = tokio::spawn(async move { drop(axum::serve(listener, router).await) });
        Ok(Receiver { port, arrivals, _server: AbortOnDropHandle::new(server) })
    }

    /// Where a webhook with this path is sent to.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The next request, or why it is no event.
    pub async fn next(&mut self) -> anyhow::Result<Arrival> {
        self.arrivals.recv().await.context("the receiver ended")?
    }
}

async fn receive(State(inbox): State<Inbox>, uri: Uri, body: Bytes) -> StatusCode {
    let (status, arrival) = match Arrival::read(&body, Utc::now()) {
        Err(error) => (StatusCode::BAD_REQUEST, Err(error)),
        Ok(arrival) => {
            let status = inbox.answer(uri.path(), &arrival.event_id);
            (status, Ok(Arrival { status: status.as_u16(), ..arrival }))
        }
    };
    // Nobody reads any more while the demo is stopping.
    drop(inbox.arrivals.send(arrival).await);
    status
}

impl Inbox {
    fn answer(&self, path: &str, event_id: &str) -> StatusCode {
        if path != FAILING_TWICE {
            return StatusCode::NO_CONTENT;
        }
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt = attempts.entry(event_id.to_owned()).or_default();
        *attempt += 1;
        if *attempt <= FAILURES { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::NO_CONTENT }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn one_path_fails_twice_for_each_event_and_the_other_never() {
        let mut receiver = Receiver::start().await.expect("a receiver");
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let body = json!({
            "id": "1", "created_at": Utc::now().to_rfc3339(), "trigger": {"name": "t"},
            "table": {"schema": "s", "name": "t"}, "event": {"op": "INSERT", "data": {"old": null, "new": {}}}
        });
        let mut statuses = Vec::new();
        for path in ["/healthy", FAILING_TWICE, FAILING_TWICE, FAILING_TWICE, "/healthy"] {
            let answer = client.post(receiver.url(path)).json(&body).send().await.expect("an answer");
            let next = tokio::time::timeout(Duration::from_secs(5), receiver.next());
            let arrival = next.await.expect("in time").expect("an arrival");
            assert_eq!(arrival.status, answer.status().as_u16());
            statuses.push(arrival.status);
        }
        assert_eq!(statuses, [204, 500, 500, 204, 204]);
    }
}
