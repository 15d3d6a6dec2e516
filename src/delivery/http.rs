//! One HTTP request and what came of it.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{HeaderMap, RETRY_AFTER};
use hyper::{Method, Request, Response as HttpResponse};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Pooled;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout};

use super::Endpoint;
use super::connector::Connector;
use super::gate::Permit;
use super::letter::{Letter, Withdrawn};
use crate::model::{Failure, FailureKind, Outcome, Response, Timestamp};
use crate::node::ServerClock;

/// The client all webhooks share. Redirects are not followed: a 3xx is an answer that is not 2xx.
#[derive(Clone)]
pub struct Client {
    pooled: Pooled<HttpsConnector<Connector>, Letter>,
    clock: ServerClock,
}

/// An answer's body.
#[derive(Debug, Default)]
pub(super) struct Body {
    /// From its beginning on.
    pub(super) text: Vec<u8>,
    /// Whether nothing of it is missing.
    pub(super) is_whole: bool,
}

/// Shorter than what servers have that close soon: Node, uvicorn and Apache do after 5 s. A request on a connection
/// that is closed in this very moment gets no answer, and that is one of its retries.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// How much of an answer is read; past that the connection is closed. The answer counts all the same. Of one that says
/// beforehand that it has more only the head is read.
pub(super) const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// How much of an answer is kept.
pub(super) const HEAD_BYTES: usize = 1024;

impl Client {
    /// A client that trusts the certificates of the machine. Attempts are timed by this clock.
    ///
    /// # Errors
    /// When the machine has no certificates that can be read: install its package `ca-certificates`.
    pub fn new(clock: ServerClock) -> io::Result<Self> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)?
            .https_or_http()
            .enable_http1()
            .wrap_connector(Connector::new());
        let pooled = Pooled::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            // Idle ones of a host are not bounded beside that: there are never more than requests under way at a time,
            // and with a smaller bound those above it would be opened anew for each request.
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(connector);
        Ok(Client { pooled, clock })
    }

    /// What attempts are timed by.
    pub(super) fn clock(&self) -> &ServerClock {
        &self.clock
    }

    /// Posts a body that nobody else sends, and reads the answer. Every end of it is an outcome. `remarks` are set over
    /// the endpoint's headers.
    pub async fn post(&self, endpoint: &Endpoint, body: Bytes, remarks: HeaderMap) -> Outcome {
        let ended = self.exchange(endpoint, Letter::new(body, None), remarks, HEAD_BYTES).await;
        ended.expect("what needs no permit is not withdrawn").0
    }

    /// Posts a body if this is permitted when the request is about to be written. `kept` bytes of the answer's body are
    /// given, if it has as many.
    pub(super) async fn send(
        &self,
        endpoint: &Endpoint,
        body: Bytes,
        remarks: HeaderMap,
        permit: &Permit,
        kept: usize,
    ) -> Result<(Outcome, Body), Withdrawn> {
        loop {
            let letter = Letter::new(body.clone(), Some(permit.clone()));
            let sent = self.exchange(endpoint, letter, remarks.clone(), kept).await;
            // Not yet or not any more: this node may only be late with a heartbeat.
            if sent.is_ok() || !permit.pass().await {
                return sent;
            }
        }
    }

    /// What is waited for holds no more than it needs, as there is one of it for each request under way.
    fn exchange(
        &self,
        endpoint: &Endpoint,
        body: Letter,
        remarks: HeaderMap,
        kept: usize,
    ) -> impl Future<Output = Result<(Outcome, Body), Withdrawn>> + Send {
        let (timeout, taken) = (endpoint.timeout(), body.taken());
        let asked = self.pooled.request(request(endpoint, body, remarks));
        async move {
            let mut answered = std::pin::pin!(async {
                match asked.await {
                    Ok(response) => Ok(read_answer(response, kept, &self.clock).await),
                    Err(error) if was_withdrawn(&error) => Err(Withdrawn),
                    Err(error) => Ok(Err(failure(&error))),
                }
            });
            let ended = within(timeout, answered.as_mut()).await.unwrap_or_else(|| {
                let (kind, what) = match taken.is_set() {
                    true => (FailureKind::Timeout, "no answer"),
                    false => (FailureKind::ConnectTimeout, "no connection"),
                };
                Ok(Err(Failure { kind, text: format!("{what} within {} s", timeout.as_secs()) }))
            });
            Ok(match ended? {
                Ok((response, body)) => (Outcome::Answered(response), body),
                Err(failure) => (Outcome::Failed(failure), Body::default()),
            })
        }
    }
}

/// A timer that is so much late was not watched: this process stood still.
const STOOD_STILL: Duration = Duration::from_millis(100);
/// What came meanwhile gets so long to be read.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Waits so long. Where it was this process that stood still (stopped, or without a processor) an answer that came
/// meanwhile is read all the same: to count it as none would send again what the endpoint has done.
async fn within<F: Future>(limit: Duration, mut answered: Pin<&mut F>) -> Option<F::Output> {
    let started = Instant::now();
    match timeout(limit, &mut answered).await {
        Ok(ended) => Some(ended),
        Err(_) if started.elapsed() < limit + STOOD_STILL => None,
        Err(_) => timeout(CATCH_UP, answered).await.ok(),
    }
}

fn request(endpoint: &Endpoint, body: Letter, remarks: HeaderMap) -> Request<Letter> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = endpoint.url.clone();
    *request.headers_mut() = endpoint.headers.clone();
    request.headers_mut().extend(remarks);
    request
}

/// Whether the request's own body refused to be sent.
fn was_withdrawn(error: &hyper_util::client::legacy::Error) -> bool {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if inner.is::<Withdrawn>() {
            return true;
        }
        cause = inner.source();
    }
    false
}

async fn read_answer(
    response: HttpResponse<Incoming>,
    kept: usize,
    clock: &ServerClock,
) -> Result<(Response, Body), Failure> {
    let status = response.status().as_u16();
    let retry_after_sec = retry_after(response.headers(), clock.earliest());
    let mut body = response.into_body();
    let is_larger = body.size_hint().lower() > MAX_ANSWER_BYTES as u64;
    let limit = if is_larger { HEAD_BYTES } else { MAX_ANSWER_BYTES };
    let (mut text, mut read, mut is_cut) = (Vec::new(), 0, false);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let text = format!("the answer broke off: {error}");
            Failure { kind: FailureKind::Broken, text }
        })?;
        let Some(data) = frame.data_ref() else { continue };
        text.extend_from_slice(&data[..data.len().min(kept - text.len())]);
        read += data.len();
        if read > limit {
            is_cut = true;
            break;
        }
    }
    // Postgres' text holds no zero byte.
    let head = String::from_utf8_lossy(&text[..text.len().min(HEAD_BYTES)]).replace('\0', "\u{fffd}");
    let body = Body { is_whole: !is_cut && read == text.len(), text };
    Ok((Response { status, retry_after_sec, head, refused: None }, body))
}

/// A positive number of whole seconds, or the seconds until a date of the forms of RFC 9110, 5.6.7, rounded up so that
/// the next request is not early. Anything else is as good as none.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<u64> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = match text.parse() {
        Ok(seconds) => seconds,
        Err(_) => {
            let until = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
            let wait = i64::try_from(until.as_micros()).ok()?.saturating_sub(now.0);
            u64::try_from(wait).ok()?.div_ceil(1_000_000)
        }
    };
    (seconds > 0).then_some(seconds)
}

/// Our own process, and our own machine, have no file descriptor left: `EMFILE`, `ENFILE`.
const NO_DESCRIPTORS: [i32; 2] = [24, 23];

const SHORTAGE: &str = "walhook may open no more connections; raise its limit of open files (LimitNOFILE of systemd, \
                        ulimit -n) or lower --max-in-flight";

/// Whether it is walhook that lacks something; no webhook can do anything about it.
fn is_shortage(error: &(dyn Error + 'static)) -> bool {
    let code = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    code.is_some_and(|code| NO_DESCRIPTORS.contains(&code))
}

/// The error with its causes. None of them holds a header or a body.
fn failure(error: &hyper_util::client::legacy::Error) -> Failure {
    let (kind, what) = match error.is_connect() {
        true => (FailureKind::Connect, "cannot connect"),
        false => (FailureKind::Broken, "no usable answer"),
    };
    Failure { kind, text: explain(what, error.source()) }
}

fn explain(what: &str, mut cause: Option<&(dyn Error + 'static)>) -> String {
    let (mut text, mut is_ours) = (what.to_owned(), false);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        is_ours |= is_shortage(inner);
        cause = inner.source();
    }
    if is_ours { format!("{SHORTAGE} ({text})") } else { text }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    use http_body_util::Full;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::Barrier;

    use super::*;
    use crate::delivery::gate::Gate;
    use crate::model::RetryConf;

    /// Answers one request with this, and then neither sends more nor closes the connection.
    async fn answering(answer: String) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream.read_exact(&mut [0; 16]).await.expect("a request");
            stream.write_all(answer.as_bytes()).await.expect("its answer");
            std::future::pending::<()>().await
        });
        url
    }

    #[tokio::test]
    async fn of_an_answer_that_says_it_is_too_long_no_more_than_the_head_is_waited_for() {
        for (length, sent) in [(MAX_ANSWER_BYTES, MAX_ANSWER_BYTES), (MAX_ANSWER_BYTES + 1, HEAD_BYTES + 1)] {
            let body = "x".repeat(sent);
            let url = answering(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}")).await;
            let endpoint = Endpoint { url: url.parse().expect("a URL"), ..Endpoint::example() };
            let client = Client::new(ServerClock::default()).expect("a client");
            let permit = Gate::example().0.permit(0, 0);
            let sending =
                client.send(&endpoint, Bytes::from_static(b"{}"), HeaderMap::new(), &permit, MAX_ANSWER_BYTES);
            let (outcome, body) = sending.await.expect("it is permitted");
            assert!(outcome.is_success(), "{outcome:?}");
            assert_eq!((body.is_whole, body.text.len()), (length == sent, sent));
        }
    }

    /// Answers requests once so many wait for it; tells how many connections were made.
    async fn answering_together(requests: usize) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let (together, connections) = (Arc::new(Barrier::new(requests)), Arc::new(AtomicUsize::new(0)));
        let counted = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Relaxed);
                let together = together.clone();
                let service = service_fn(move |_| {
                    let together = together.clone();
                    async move {
                        together.wait().await;
                        Ok::<_, hyper::Error>(HttpResponse::new(Full::<Bytes>::default()))
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        (url, connections)
    }

    #[tokio::test]
    async fn as_many_connections_as_requests_at_a_time_are_used_again() {
        const REQUESTS: usize = 200;
        let (url, connections) = answering_together(REQUESTS).await;
        let endpoint = Endpoint { url: url.parse().expect("a URL"), ..Endpoint::example() };
        let client = Client::new(ServerClock::default()).expect("a client");
        for _ in 0..3 {
            let posts = (0..REQUESTS).map(|_| client.post(&endpoint, Bytes::from_static(b"{}"), HeaderMap::new()));
            assert!(futures_util::future::join_all(posts).await.iter().all(Outcome::is_success));
        }
        // One that is not back yet when it could be used again is beside the point.
        let connections = connections.load(Relaxed);
        assert!(connections < REQUESTS + REQUESTS / 4, "{connections}");
    }

    /// Both threads of the runtime stand still from the request until its time is over.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn an_answer_that_came_while_walhook_stood_still_counts() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/", server.local_addr().expect("an address"));
        let (arrived, arrival) = tokio::sync::oneshot::channel();
        let answers = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().expect("a connection");
            stream.read_exact(&mut [0; 16]).expect("a request");
            arrived.send(()).expect("somebody waits for it");
            std::thread::sleep(Duration::from_millis(300));
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").expect("its answer");
            stream
        });
        let retry_conf = RetryConf { timeout_sec: 1, ..RetryConf::default() };
        let endpoint = Endpoint { url: url.parse().expect("a URL"), retry_conf, ..Endpoint::example() };
        let client = Client::new(ServerClock::default()).expect("a client");
        let posting = async move { client.post(&endpoint, Bytes::from_static(b"{}"), HeaderMap::new()).await };
        let posted = tokio::spawn(posting);
        arrival.await.expect("a request");
        tokio::spawn(async { std::thread::sleep(Duration::from_millis(1500)) });
        std::thread::sleep(Duration::from_millis(1500));
        let outcome = posted.await.expect("an outcome");
        assert!(outcome.is_success(), "{outcome:?}");
        drop(answers.join());
    }

    #[test]
    fn what_our_own_machine_lacks_is_said_with_the_cure() {
        for code in NO_DESCRIPTORS {
            let text = explain("cannot connect", Some(&io::Error::from_raw_os_error(code)));
            assert!(text.contains("ulimit -n") && text.contains(&format!("os error {code}")), "{text}");
        }
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(explain("cannot connect", Some(&refused)), "cannot connect: connection refused");
    }
}
