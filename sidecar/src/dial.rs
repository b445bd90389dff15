//! Opening a TCP connection as the sidecar: an address enters, a connected stream leaves, with the socket options that
//! every connection of ours carries. It never decides where to connect to.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};

/// How the sidecar opens its own connections.
#[derive(Clone, Debug)]
pub struct DialOptions {
    /// `SO_MARK` of every socket (needs `CAP_NET_ADMIN`), by which the redirect tells our own traffic; `None` when it
    /// tells it by uid or gid.
    pub mark: Option<u32>,
    /// The longest that a connect may take.
    pub timeout: Duration,
}

impl DialOptions {
    /// Whether the sidecar may open connections as these options say.
    ///
    /// # Errors
    /// `PermissionDenied` when a mark is asked for and `CAP_NET_ADMIN` is missing: every connection would then fail.
    pub fn check(&self) -> io::Result<()> {
        match self.mark {
            Some(mark) => Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?.set_mark(mark),
            None => Ok(()),
        }
    }
}

/// Connects to `addr` within `options.timeout`.
///
/// # Errors
/// The system's error, `TimedOut` past the time, or `PermissionDenied` when a mark is asked for and may not be set: the
/// connection is then not made at all, because without its mark it would be redirected to ourselves.
pub async fn connect(addr: SocketAddr, options: &DialOptions) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    let connecting = TcpSocket::from_std_stream(socket.into()).connect(addr);
    let stream = tokio::time::timeout(options.timeout, connecting)
        .await
        .map_err(|_| {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer from {addr} in {:?}", options.timeout),
            )
        })??;
    tune(&stream)?;
    Ok(stream)
}

/// Sets what every connection of the sidecar carries, accepted ones too: no Nagle delay, and keepalive with a user
/// time-out, so that a leg whose other end vanished is noticed and its twin closed.
///
/// # Errors
/// The system's error.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(Duration::from_secs(60)))
}
