//! Accepting connections until told to stop.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;
use tracing::warn;

use super::{ApiState, router};

/// So many connections at a time; more of them wait. Deliveries need descriptors, too.
const CONNECTIONS: usize = if cfg!(test) { 8 } else { 256 };
/// The head of a request, also the next one of a connection that is kept, is there within this time, or the connection
/// ends: whoever says nothing has no right to one of them.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// What a connection that has not asked anything, or is being answered, gets when it is to end.
const LAST_HEAD: Duration = Duration::from_millis(500);
/// After a failure that is not the peer's, as when there is no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Serves until `stop` is cancelled, then finishes the requests that are under way. The caller bounds that time.
pub async fn serve(listener: TcpListener, state: ApiState, stop: CancellationToken) {
    let (router, connections) = (router(state), TaskTracker::new());
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let accepting = async {
        loop {
            let permit = Arc::clone(&room).acquire_owned().await.expect("the semaphore is not closed");
            let stream = accept(&listener).await;
            let answering = connection(stream, router.clone(), stop.clone());
            connections.spawn(async move {
                answering.await;
                drop(permit);
            });
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        never = accepting => match never {},
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn accept(listener: &TcpListener) -> TcpStream {
    let mut told = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Who does not read the answers keeps no place either. Where it cannot be set, all else works.
                #[cfg(target_os = "linux")]
                drop(SockRef::from(&stream).set_tcp_user_timeout(Some(HEAD_TIMEOUT)));
                return stream;
            }
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    warn!("the API cannot accept a connection: {error}; trying again every second");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether it was gone before it was accepted.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Answers the requests of a connection until it ends, or the stop comes and nothing of it is under way.
async fn connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    let asked = AtomicUsize::new(0);
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let answered = answer(router.clone(), request.map(Body::new));
        async {
            asked.fetch_add(1, Ordering::Relaxed);
            let response = answered.await;
            asked.fetch_sub(1, Ordering::Relaxed);
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // How it ends is the peer's affair.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    while timeout(LAST_HEAD, connection.as_mut()).await.is_err() && asked.load(Ordering::Relaxed) > 0 {}
}

async fn answer(mut router: Router, request: Request) -> Response {
    match router.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::api::tests::state;

    /// Less than [`HEAD_TIMEOUT`], which would end what is to end by itself.
    const DEADLINE: Duration = Duration::from_secs(20);
    const LONGER_THAN_A_LAST_HEAD: Duration = Duration::from_millis(1200);

    struct Served {
        address: SocketAddr,
        stop: CancellationToken,
        serving: JoinHandle<()>,
    }

    impl Served {
        async fn start() -> Served {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let (address, stop) = (listener.local_addr().expect("an address"), CancellationToken::new());
            let serving = tokio::spawn(serve(listener, state(Some("secret")).0, stop.clone()));
            Served { address, stop, serving }
        }

        async fn say(&self, said: &str) -> TcpStream {
            let mut stream = TcpStream::connect(self.address).await.expect("a connection");
            stream.write_all(said.as_bytes()).await.expect("it is said");
            stream
        }

        async fn ends(self) {
            timeout(DEADLINE, self.serving).await.expect("it ends in time").expect("and well");
        }
    }

    /// The next piece of an answer; empty at the end of the connection.
    async fn hear(stream: &mut TcpStream) -> String {
        let mut buffer = [0; 4096];
        let read = timeout(DEADLINE, stream.read(&mut buffer)).await.expect("something in time").unwrap_or(0);
        String::from_utf8_lossy(&buffer[..read]).into_owned()
    }

    async fn is_silent(stream: &mut TcpStream) -> bool {
        timeout(LONGER_THAN_A_LAST_HEAD, stream.read(&mut [0; 1])).await.is_err()
    }

    const HEALTH: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";

    #[tokio::test]
    async fn a_stop_does_not_wait_for_what_was_not_asked() {
        let served = Served::start().await;
        let (_half, _none) = (served.say("POST /v1/que").await, served.say("").await);
        let mut kept = served.say(HEALTH).await;
        assert!(hear(&mut kept).await.starts_with("HTTP/1.1 200"));
        served.stop.cancel();
        served.ends().await;
        assert_eq!(hear(&mut kept).await, "");
    }

    #[tokio::test]
    async fn a_stop_waits_for_a_request_that_is_under_way() {
        let served = Served::start().await;
        let head = "POST /v1/query HTTP/1.1\r\nHost: localhost\r\nx-hasura-admin-secret: secret\r\n\
                    Content-Length: 2\r\nExpect: 100-continue\r\n\r\n";
        let mut asking = served.say(head).await;
        assert!(hear(&mut asking).await.starts_with("HTTP/1.1 100"), "it waits for the body");
        served.stop.cancel();
        assert!(is_silent(&mut asking).await);
        asking.write_all(b"{}").await.expect("it listens");
        assert!(hear(&mut asking).await.starts_with("HTTP/1.1 400"));
        served.ends().await;
    }

    #[tokio::test]
    async fn connections_beyond_the_most_wait_for_one_that_ends() {
        let served = Served::start().await;
        let mut accepted = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = served.say(HEALTH).await;
            assert!(hear(&mut stream).await.starts_with("HTTP/1.1 200"));
            accepted.push(stream);
        }
        let mut waiting = served.say(HEALTH).await;
        assert!(is_silent(&mut waiting).await);
        accepted.pop();
        assert!(hear(&mut waiting).await.starts_with("HTTP/1.1 200"));
    }
}
