//! From a place to a byte stream: the socket with its timeouts, and TLS over it. Every connection begins here.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::Config;
use tokio_postgres::config::Host;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

use super::settings::{Settings, Target};
use super::tls::Mode;
use super::{Error, channel_binding};

/// What a client sends to ask for TLS: a length and a magic number.
const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// An open connection that nothing of the protocol has passed yet.
pub(super) struct Transport {
    bytes: Box<dyn Bytes>,
    encrypted: bool,
    /// What SCRAM can bind to; `None` without TLS, or where the certificate's signature prescribes no hash.
    end_point: Option<Vec<u8>>,
}

impl Transport {
    /// Connects to a place.
    pub(super) async fn open(settings: &Settings, target: &Target) -> Result<Transport, Error> {
        let unreachable = |reason| Error::Unreachable { address: target.to_string(), reason };
        match &target.host {
            Host::Tcp(name) => {
                let socket = dial(settings.sockets(), name, target).await.map_err(unreachable)?;
                negotiate(settings, target, name, socket).await
            }
            // Never encrypted, as in libpq: the bytes do not leave the machine.
            #[cfg(unix)]
            Host::Unix(directory) => {
                let path = directory.join(format!(".s.PGSQL.{}", target.port));
                let socket = UnixStream::connect(path).await.map_err(unreachable)?;
                Ok(Transport::plain(socket))
            }
        }
    }

    fn plain(socket: impl Bytes + 'static) -> Transport {
        Transport { bytes: Box::new(socket), encrypted: false, end_point: None }
    }

    /// Whether TLS is in place.
    pub(super) fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// What SCRAM can bind to.
    pub(super) fn end_point(&self) -> Option<&[u8]> {
        self.end_point.as_deref()
    }
}

/// Tries each address of a name.
async fn dial(sockets: &Config, name: &str, target: &Target) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = match target.address {
        Some(address) => vec![(address, target.port).into()],
        None => tokio::net::lookup_host((name, target.port)).await?.collect(),
    };
    let limit = sockets.get_connect_timeout().copied().unwrap_or(Duration::MAX);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match tokio::time::timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => return prepare(sockets, socket),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}")),
        }
    }
    Err(last)
}

fn prepare(sockets: &Config, socket: TcpStream) -> io::Result<TcpStream> {
    socket.set_nodelay(true)?;
    let options = SockRef::from(&socket);
    #[cfg(target_os = "linux")]
    options.set_tcp_user_timeout(sockets.get_tcp_user_timeout().copied())?;
    if sockets.get_keepalives() {
        let mut keepalive = TcpKeepalive::new().with_time(sockets.get_keepalives_idle());
        if let Some(interval) = sockets.get_keepalives_interval() {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(retries) = sockets.get_keepalives_retries() {
            keepalive = keepalive.with_retries(retries);
        }
        options.set_tcp_keepalive(&keepalive)?;
    }
    Ok(socket)
}

/// Asks the server for TLS, unless it is not wanted or needs no asking, and shakes hands.
async fn negotiate(
    settings: &Settings,
    target: &Target,
    name: &str,
    mut socket: TcpStream,
) -> Result<Transport, Error> {
    let tls = settings.tls();
    let address = target.to_string();
    let refused = |reason: &str| Error::Tls { address: address.clone(), reason: reason.into() };
    if tls.mode == Mode::Disable {
        return Ok(Transport::plain(socket));
    }
    if !tls.direct {
        let broken = |reason| Error::Unreachable { address: address.clone(), reason };
        socket.write_all(&TLS_REQUEST).await.map_err(broken)?;
        match socket.read_u8().await.map_err(broken)? {
            b'S' => {}
            _ if tls.mode == Mode::Prefer => return Ok(Transport::plain(socket)),
            _ => return Err(refused("the server offers none; set  ssl = on  there, or connect with sslmode=prefer")),
        }
    }
    let server = ServerName::try_from(name.to_owned()).map_err(|_| refused("the host is no name of a server"))?;
    let shaken = TlsConnector::from(Arc::new(tls.client()?)).connect(server, socket).await;
    let stream = shaken.map_err(|reason| Error::from_handshake(address.clone(), reason))?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let end_point = certificate.and_then(|certificate| channel_binding::end_point(certificate));
    Ok(Transport { bytes: Box::new(stream), encrypted: true, end_point })
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_read(context, to)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(context)
    }
}

impl TlsStream for Transport {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.end_point {
            Some(hash) => ChannelBinding::tls_server_end_point(hash.clone()),
            None => ChannelBinding::none(),
        }
    }
}

/// Tells the driver that TLS is in place: it "connects" by handing the transport back.
pub(super) struct InPlace;

impl TlsConnect<Transport> for InPlace {
    type Stream = Transport;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Transport, std::convert::Infallible>>;

    fn connect(self, transport: Transport) -> Self::Future {
        std::future::ready(Ok(transport))
    }
}
