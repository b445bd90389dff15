//! The connection to the application: an address enters, a stream leaves or the reason why there is none. Which address
//! that may be was decided before.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::dial::{self, DialOptions};

/// Why there is no connection to the application. The client gets [`ConnectFailure::STATUS`].
#[derive(Debug, thiserror::Error)]
pub enum ConnectFailure {
    /// Nobody listens.
    #[error("the application does not listen on {addr}")]
    Refused {
        /// Where.
        addr: SocketAddr,
    },
    /// No answer in time.
    #[error("the application at {addr} did not accept the connection in time")]
    Timeout {
        /// Where.
        addr: SocketAddr,
    },
    /// It is declared to speak HTTP/2, and does not.
    #[error("the application at {addr} does not speak HTTP/2")]
    NotHttp2 {
        /// Where.
        addr: SocketAddr,
    },
    /// All connections to it carry as many streams as they may.
    #[error("the application at {addr} takes no more streams")]
    Busy {
        /// Where.
        addr: SocketAddr,
    },
    /// No way there, or the system would not let us.
    #[error("no connection to the application at {addr}: {source}")]
    Unreachable {
        /// Where.
        addr: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

labels!(ConnectFailure {
    Self::Refused { .. } => "app_refused",
    Self::Timeout { .. } => "app_connect_timeout",
    Self::NotHttp2 { .. } => "app_not_http2",
    Self::Busy { .. } => "app_busy",
    Self::Unreachable { .. } => "app_unreachable",
});

impl ConnectFailure {
    /// 503: it may work later.
    pub const STATUS: u16 = 503;
}

/// Connects to the application at `addr`.
///
/// # Errors
/// See [`ConnectFailure`].
pub async fn connect_app(addr: SocketAddr, options: &DialOptions) -> Result<TcpStream, ConnectFailure> {
    dial::connect(addr, options)
        .await
        .map_err(|source| match source.kind() {
            io::ErrorKind::ConnectionRefused => ConnectFailure::Refused { addr },
            io::ErrorKind::TimedOut => ConnectFailure::Timeout { addr },
            _ => ConnectFailure::Unreachable { addr, source },
        })
}

/// Makes the coming drop of `stream` a reset instead of an orderly end, so that the other side cannot take what it has
/// for the whole. Does what the system lets it.
pub fn abort(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "a connection ends with FIN where it should be reset");
    }
}
