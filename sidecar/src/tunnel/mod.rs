//! HBONE: byte streams between workloads, each an HTTP/2 CONNECT inside one of few mutually proven TLS connections
//! (tunnels). On the client side a [`Target`] enters the [`Pool`] and an open [`TunnelStream`] leaves; on the server side
//! [`serve()`] takes a finished TLS connection and hands out an [`Incoming`] for each CONNECT. It never decides whether a
//! stream is allowed, never connects to what an authority names, and never lets a tunnel outlive either side's SVID.
//!
//! ```text
//!  Pool::open -> lease a tunnel (reuse, or one connect at a time) -> CONNECT -> 200 -> TunnelStream
//!  serve      -> Incoming (authority, headers) -> accept / refuse            -> TunnelStream
//! ```

mod connect;
mod cork;
mod driver;
mod incoming;
mod life;
mod pool;
mod registry;
mod serve;
mod settings;
mod stream;

pub use cork::{Cork, Uncork, cork};
pub use driver::Warden;
pub use incoming::{BadAuthority, Incoming};
pub use life::{End, Life, valid_until, winding_down};
pub use pool::{Opened, Pool, PoolOptions, Target};
pub use serve::{ServeOptions, serve};
pub use stream::TunnelStream;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::identity::Blame;
use crate::tls::{Peer, TlsError};

/// Why a tunnel or a stream in it could not be had. Cheap to clone: all who waited for one connect get the same.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TunnelError {
    /// The own SVID is over: nothing can be opened in its name.
    #[error("the own SVID has expired")]
    OwnExpired,
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(Arc<TlsError>),
    /// The peer could not be reached.
    #[error("cannot connect to {addr}: {detail}")]
    Connect {
        /// Where to.
        addr: SocketAddr,
        /// The system's answer.
        kind: io::ErrorKind,
        /// In words.
        detail: String,
    },
    /// The TLS handshake with the peer failed.
    #[error("TLS with {addr} failed: {detail}")]
    Handshake {
        /// Where to.
        addr: SocketAddr,
        /// As `tls::label`.
        label: &'static str,
        /// In words.
        detail: String,
    },
    /// The time of the caller ran out.
    #[error("no answer from {addr} in time")]
    TimedOut {
        /// Where to.
        addr: SocketAddr,
    },
    /// The peer answered, and not with 200.
    #[error("{} refused the connection: {}{}", peer.id, refusal(*status), reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default())]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its reason as a stable label, where the peer is a hopguard.
        reason: Option<Arc<str>>,
        /// Who refused.
        peer: Arc<Peer>,
    },
    /// The tunnel or the stream ended before the peer answered.
    #[error("the tunnel to {addr} ended before it answered: {detail}")]
    Lost {
        /// Where to.
        addr: SocketAddr,
        /// In words.
        detail: String,
    },
    /// The peer allows no streams at all, or more tunnels are open to it than may be.
    #[error("{addr} takes no more streams")]
    Full {
        /// Where to.
        addr: SocketAddr,
    },
    /// A header that we meant to send cannot be sent.
    #[error("the header {0} cannot be sent")]
    Header(&'static str),
    /// The peer broke the protocol, or the connection under a tunnel that we serve ended.
    #[error("tunnel ended: {0}")]
    Ended(End),
}

labels!(TunnelError {
    Self::OwnExpired => "own_svid_expired",
    Self::Tls(_) => "tls_setup",
    Self::Connect { .. } => "connect",
    Self::TimedOut { .. } => "timeout",
    Self::Refused { .. } => "refused",
    Self::Lost { .. } => "tunnel_lost",
    Self::Full { .. } => "tunnel_full",
    Self::Header(_) => "header",
    Self::Ended(End::Expired) => "svid_expired",
    Self::Ended(End::Silent) => "peer_silent",
    Self::Ended(End::Untrusted(_)) => "peer_untrusted",
    Self::Ended(End::Revoked) => "revoked",
    Self::Ended(End::Drained) => "drained",
    Self::Ended(End::Connection(_)) => "connection_lost",
} else { Self::Handshake { label, .. } => label });

impl TunnelError {
    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Self::OwnExpired | Self::Header(_) => Blame::Us,
            Self::Tls(error) => error.blame(),
            _ => Blame::Peer,
        }
    }
}

/// The header by which a refused CONNECT carries its reason, a stable label. Only a peer that proved itself gets it.
const REASON_HEADER: &str = "x-hopguard-reason";

/// What the statuses of HBONE mean.
fn refusal(status: u16) -> String {
    match status {
        400 => "it takes no connections for that address and port".to_owned(),
        401 | 403 => "its policy does not allow it".to_owned(),
        503 => "its application cannot be reached".to_owned(),
        other => format!("status {other}"),
    }
}

#[cfg(test)]
mod tests;
