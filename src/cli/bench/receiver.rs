//! The webhooks' receiver, as a process of its own: answers 204 at once and counts.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};

/// Requests to here are counted and nothing else.
pub(super) const COUNTED: &str = "/hook";
/// Of requests to here the time since `created_at` is kept as well.
pub(super) const TIMED: &str = "/timed";
/// Requests to here are counted, and answered after a while, as by a receiver that does something with them.
pub(super) const WORKING: &str = "/working";
/// Requests to here are never answered; those to the next ones late, and with much more than anybody reads. None is
/// counted.
pub(super) const HANG: &str = "/hang";
pub(super) const SLOW: &str = "/slow";
pub(super) const HUGE: &str = "/huge";
/// `GET`: how many requests came in since the last reset.
pub(super) const COUNT: &str = "/count";
/// `GET`: the kept times in microseconds, as a JSON list.
pub(super) const TIMES: &str = "/times";
/// `POST`: forgets count and times.
pub(super) const RESET: &str = "/reset";

const WORKS_FOR: Duration = Duration::from_millis(5);
const SLOW_ANSWER: Duration = Duration::from_secs(30);
const HUGE_ANSWER_BYTES: usize = 10 * 1024 * 1024;
const SEND_BUFFER_BYTES: u32 = 64 * 1024;
const BACKLOG: u32 = 1024;

/// The webhooks' receiver of the benchmark.
#[derive(Clone, Debug, clap::Args)]
pub struct ReceiverArgs {
    /// Port on 127.0.0.1
    #[arg(long)]
    port: u16,
}

struct Seen {
    count: AtomicU64,
    micros: Mutex<Vec<i64>>,
    huge: Bytes,
}

/// Receives until it is ended.
///
/// # Errors
/// Where it cannot listen.
pub async fn receive(args: ReceiverArgs) -> anyhow::Result<()> {
    let listener = listen(args.port).context("the receiver cannot listen")?;
    let huge = Bytes::from(vec![b'x'; HUGE_ANSWER_BYTES]);
    let seen = Arc::new(Seen { count: AtomicU64::default(), micros: Mutex::default(), huge });
    loop {
        let (stream, _) = listener.accept().await.context("the receiver cannot accept")?;
        stream.set_nodelay(true).context("a connection without its settings")?;
        let seen = seen.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&seen, request));
            // The client's own end of the connection shows there.
            drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

/// With little room for what is not read yet: an answer of megabytes would else cost this machine, and so the healthy
/// endpoints, mostly for being made.
fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
    socket.listen(BACKLOG)
}

async fn answer(seen: &Seen, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let times = || seen.micros.lock().unwrap_or_else(PoisonError::into_inner);
    let is_timed = request.uri().path() == TIMED;
    let body = match (request.method(), request.uri().path()) {
        (&Method::GET, COUNT) => seen.count.load(Ordering::Relaxed).to_string(),
        (&Method::GET, TIMES) => serde_json::Value::from(times().clone()).to_string(),
        (&Method::POST, RESET) => {
            seen.count.store(0, Ordering::Relaxed);
            times().clear();
            String::new()
        }
        (&Method::POST, HANG | SLOW | HUGE) => return misbehave(seen, request).await,
        _ => {
            let works = request.uri().path() == WORKING;
            let body = read(request, is_timed).await?;
            if works {
                tokio::time::sleep(WORKS_FOR).await;
            }
            if is_timed {
                times().extend(micros_since_created(&body, Utc::now()));
            }
            seen.count.fetch_add(1, Ordering::Relaxed);
            return Ok(no_content());
        }
    };
    Ok(Response::new(Full::from(body)))
}

fn no_content() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

async fn misbehave(seen: &Seen, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let path = request.uri().path().to_owned();
    read(request, false).await?;
    match path.as_str() {
        HUGE => Ok(Response::new(Full::new(seen.huge.clone()))),
        SLOW => {
            tokio::time::sleep(SLOW_ANSWER).await;
            Ok(no_content())
        }
        _ => std::future::pending().await,
    }
}

/// Every byte has to come in, but only a timed request is looked at.
async fn read(request: Request<Incoming>, is_kept: bool) -> Result<Vec<u8>, hyper::Error> {
    let (mut body, mut kept) = (request.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        if let (Some(data), true) = (frame?.data_ref(), is_kept) {
            kept.extend_from_slice(data);
        }
    }
    Ok(kept)
}

/// Both clocks are this machine's.
fn micros_since_created(body: &[u8], arrived: DateTime<Utc>) -> Option<i64> {
    let (key, text) = ("\"created_at\":\"", std::str::from_utf8(body).ok()?);
    let rest = &text[text.find(key)? + key.len()..];
    let created = DateTime::parse_from_rfc3339(&rest[..rest.find('"')?]).ok()?;
    (arrived - created.to_utc()).num_microseconds()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_since_the_commit_is_read_from_the_body() {
        let arrived = "2026-01-01T00:00:00.002500Z".parse().expect("a time");
        let body = br#"{"id":"1","created_at":"2026-01-01T00:00:00.000000Z","trigger":{}}"#;
        assert_eq!(micros_since_created(body, arrived), Some(2500));
        assert_eq!(micros_since_created(b"{}", arrived), None);
    }
}
