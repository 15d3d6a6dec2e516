//! A network between walhook and Postgres that can be broken on purpose.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// What the network does with bytes and connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Everything passes.
    Fair,
    /// Connections stay open and nothing passes: the peer cannot be told from a slow one.
    Frozen,
    /// Connections are closed, and so are new ones at once.
    Cut,
}

/// A TCP proxy on a free port of loopback. Dropping it closes everything, also where the test's own runtime stands
/// still because it drops its database: a login that nobody goes on with would keep that from being dropped for a
/// minute (`authentication_timeout`), and for as long no other test could make a slot.
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    runtime: Option<Runtime>,
}

impl Proxy {
    /// In front of this port of loopback.
    pub async fn start(target: u16) -> Proxy {
        let mut threads = tokio::runtime::Builder::new_multi_thread();
        let runtime = threads.worker_threads(1).enable_all().build().expect("a runtime");
        let listening = runtime.spawn(TcpListener::bind("127.0.0.1:0"));
        let listener = listening.await.expect("no panic").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (weather, forecast) = watch::channel(Weather::Fair);
        runtime.spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                if *forecast.borrow() != Weather::Cut {
                    tokio::spawn(forward(client, target, forecast.clone()));
                }
            }
        });
        Proxy { address, weather, runtime: Some(runtime) }
    }

    /// Where to connect instead of the target.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Changes what happens from now on.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It must not be waited for in a runtime.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

async fn forward(client: TcpStream, target: u16, weather: watch::Receiver<Weather>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::select! {
        () = pass(client_read, server_write, weather.clone()) => {}
        () = pass(server_read, client_write, weather) => {}
    }
}

/// Passes bytes on one way until the end or a cut.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut weather: watch::Receiver<Weather>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.unwrap_or(0),
            cut = weather.wait_for(|weather| *weather == Weather::Cut) => { drop(cut); 0 }
        };
        if read == 0 {
            return;
        }
        let fair = weather.wait_for(|weather| *weather != Weather::Frozen).await.is_ok_and(|now| *now == Weather::Fair);
        if !fair || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
