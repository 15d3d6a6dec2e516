//! The body of a request. A connection takes it when the request is about to be written, so here is the last look:
//! before that it may have taken seconds to connect, in which the node lost its lanes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::gate::Permit;

/// See the module's description. Nothing of a request goes out whose body is refused.
#[derive(Debug)]
pub(super) struct Letter {
    /// Until the connection took it.
    content: Option<Bytes>,
    /// `None` where nobody can take it over.
    permit: Option<Permit>,
    taken: Taken,
}

/// Whether a connection took the letter; until then there was none.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken(Arc<AtomicBool>);

impl Taken {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Nothing was sent, because others may have a lane of the request.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the request was withdrawn")]
pub(super) struct Withdrawn;

impl Letter {
    pub(super) fn new(content: Bytes, permit: Option<Permit>) -> Letter {
        Letter { content: Some(content), permit, taken: Taken::default() }
    }

    pub(super) fn taken(&self) -> Taken {
        self.taken.clone()
    }
}

impl Body for Letter {
    type Data = Bytes;
    type Error = Withdrawn;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Withdrawn>>> {
        let letter = self.get_mut();
        let Some(content) = letter.content.take() else { return Poll::Ready(None) };
        letter.taken.0.store(true, Ordering::Relaxed);
        let is_valid = letter.permit.as_ref().is_none_or(Permit::is_valid);
        Poll::Ready(Some(if is_valid { Ok(Frame::data(content)) } else { Err(Withdrawn) }))
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.content.as_ref().map_or(0, Bytes::len) as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, SocketAddr, TcpStream};
    use std::time::Duration;

    use hyper::header::HeaderMap;
    use socket2::{Domain, Socket, Type};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::delivery::gate::Gate;
    use crate::delivery::tenure::Terms;
    use crate::delivery::{Client, Endpoint};
    use crate::model::{FailureKind, LaneSet, Outcome, RetryConf};
    use crate::node::ServerClock;

    const LETTER: &[u8] = b"{}";

    /// Keeps whoever connects waiting, as nobody else is let in before the first one was accepted.
    struct Doorkeeper {
        socket: Socket,
        port: u16,
        _first: TcpStream,
    }

    impl Doorkeeper {
        fn new() -> Doorkeeper {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a port");
            socket.listen(0).expect("it listens");
            let address = socket.local_addr().expect("an address").as_socket().expect("of the internet");
            let first = TcpStream::connect(address).expect("the first one is let in");
            Doorkeeper { socket, port: address.port(), _first: first }
        }

        /// As Linux has it in /proc/net/tcp: who connects, and is not let in yet, is in state 2.
        async fn somebody_waits(&self) {
            let remote = format!(" 0100007F:{:04X} 02 ", self.port);
            let waits = || std::fs::read_to_string("/proc/net/tcp").expect("sockets").contains(&remote);
            let found = async {
                while !waits() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(30), found).await.expect("somebody connects");
        }

        fn let_in(&self) -> JoinHandle<TcpStream> {
            let socket = self.socket.try_clone().expect("a second handle");
            tokio::task::spawn_blocking(move || TcpStream::from(socket.accept().expect("a connection").0))
        }

        /// What the next one says until its letter ends, or it closes; answers a letter.
        async fn hear_next(&self) -> Vec<u8> {
            let mut stream = self.let_in().await.expect("who comes in");
            let hearing = tokio::task::spawn_blocking(move || {
                let (mut said, mut byte) = (Vec::new(), [0]);
                while !said.ends_with(LETTER) && stream.read(&mut byte).expect("what it says") > 0 {
                    said.push(byte[0]);
                }
                if !said.is_empty() {
                    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").expect("an answer");
                }
                said
            });
            hearing.await.expect("what was heard")
        }
    }

    /// Who was not let in has not reached the endpoint; who was, and is not answered, has.
    #[tokio::test]
    async fn a_request_that_ends_while_it_connects_did_not_reach_its_endpoint() {
        let door = Doorkeeper::new();
        let silent = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let client = Client::new(ServerClock::default()).expect("a client");
        for (port, kind, text) in [
            (door.port, FailureKind::ConnectTimeout, "no connection within 1 s"),
            (silent.local_addr().expect("an address").port(), FailureKind::Timeout, "no answer within 1 s"),
        ] {
            let url = format!("http://127.0.0.1:{port}/").parse().expect("a URL");
            let retry_conf = RetryConf { timeout_sec: 1, ..RetryConf::default() };
            let endpoint = Endpoint { url, retry_conf, ..Endpoint::example() };
            let outcome = client.post(&endpoint, Bytes::from_static(LETTER), HeaderMap::new()).await;
            let Outcome::Failed(failure) = outcome else { panic!("{outcome:?}") };
            assert_eq!((failure.kind, failure.text.as_str()), (kind, text));
        }
    }

    /// Connecting takes a second here: what the kernel does not let in it asks for again after that time.
    #[tokio::test]
    async fn a_request_that_lost_its_lane_while_it_connected_is_not_sent() {
        for comes_back in [false, true] {
            let (door, (gate, standing)) = (Doorkeeper::new(), Gate::example());
            let url = format!("http://127.0.0.1:{}/", door.port).parse().expect("a URL");
            let (endpoint, permit) = (Endpoint { url, ..Endpoint::example() }, gate.permit(3, 0));
            let client = Client::new(ServerClock::default()).expect("a client");
            let sending = tokio::spawn(async move {
                client.send(&endpoint, Bytes::from_static(LETTER), HeaderMap::new(), &permit, 0).await
            });
            door.somebody_waits().await;
            gate.set(LaneSet::NONE, &Terms::default());
            door.let_in().await.expect("the first one");
            assert_eq!(door.hear_next().await, b"", "it connects, and says nothing");
            if comes_back {
                gate.set(LaneSet::ALL, &Terms::default());
                standing.send_modify(|_| ());
                assert!(door.hear_next().await.starts_with(b"POST"));
                let (outcome, _) = sending.await.expect("an end").expect("it was sent");
                assert!(outcome.is_success(), "{outcome:?}");
            } else {
                drop(standing);
                assert!(sending.await.expect("an end").is_err());
            }
        }
    }
}
