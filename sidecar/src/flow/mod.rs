//! The story: the order of the stages, for connections that come in, for connections that go out, and for each HTTP
//! request. No other room knows it. What a stage cannot prove it does not hand on.

mod ended;
mod inbound;
mod outbound;
mod request;
mod tell;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use inbound::{hbone, redirected};
pub use outbound::{Probe, outbound};

use crate::authn::Authenticator;
use crate::dial::DialOptions;
use crate::observe::{Journal, Metrics, UserLog};
use crate::request::Limits;
use crate::runtime::Drain;
use crate::services::{Port, Resolver};
use crate::snapshot::Current;
use crate::tls::Peer;
use crate::tunnel::{Pool, ServeOptions};

/// Everything that the stages share.
pub struct Context {
    /// Identity, policies and mesh file in force.
    pub current: Arc<Current>,
    /// The table of services and its look-ups.
    pub services: Arc<Resolver>,
    /// Tunnels to peers.
    pub pool: Arc<Pool>,
    /// User tokens.
    pub authn: Arc<Authenticator>,
    /// Where records go.
    pub journal: Journal,
    /// Counters and histograms.
    pub metrics: Metrics,
    /// How users are written into records.
    pub users: UserLog,
    /// The end.
    pub drain: Drain,
    /// Hears that the redirect works.
    pub probe: Probe,
    /// Settings.
    pub options: FlowOptions,
}

/// Settings of the story.
pub struct FlowOptions {
    /// The name of the service that this sidecar stands beside.
    pub service: Arc<str>,
    /// The sidecar's own listeners: nothing is ever forwarded to them.
    pub own_ports: Vec<u16>,
    /// The port on which peers take HBONE.
    pub hbone_port: u16,
    /// Whether destinations outside the mesh are let through (`egress = "plain"`).
    pub egress_plain: bool,
    /// How connections are opened.
    pub dial: DialOptions,
    /// How long first bytes may take.
    pub detect_timeout: Duration,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// Bounds of an HTTP head.
    pub limits: Limits,
    /// How long an HTTP head may take from its first byte.
    pub head_timeout: Duration,
    /// How long an HTTP connection may stand idle between requests, and a body between two pieces.
    pub idle_timeout: Duration,
    /// How long an opaque connection may stand idle.
    pub opaque_idle: Duration,
    /// How tunnels are served.
    pub serve: ServeOptions,
    /// Server TLS for clients of `public` ports that have no workload identity.
    pub public_tls: Option<Arc<rustls::ServerConfig>>,
}

/// Who is at the other end of an inbound connection, as far as it was proven. Only the inbound stages make one.
struct Secured {
    /// The peer's SVID; `None` is plaintext, or TLS without a client certificate, on a port whose mode allows it.
    peer: Option<Peer>,
    /// How the connection came.
    via: Via,
    /// TLS version and key exchange.
    tls: Option<(&'static str, &'static str)>,
    /// The socket's other end.
    src: SocketAddr,
    /// The declared port.
    port: Port,
    /// Where the application is dialled: the pod's own address, never loopback.
    app: SocketAddr,
    /// Until when what was proven holds.
    validity: Validity,
}

/// How an inbound connection came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Via {
    Hbone,
    Mtls,
    ServerTls,
    Plaintext,
}

impl Via {
    fn label(self) -> &'static str {
        match self {
            Self::Hbone => "hbone",
            Self::Mtls => "mtls",
            Self::ServerTls => "tls",
            Self::Plaintext => "plaintext",
        }
    }
}

/// Until when a connection may live: what was proven at its start holds until one of the two SVIDs ends.
#[derive(Clone, Copy)]
struct Validity {
    /// From here on answers ask the client to come again on a new connection.
    soft: SystemTime,
    /// From here on an idle connection is closed.
    idle: SystemTime,
    /// Here the rest is cut.
    hard: SystemTime,
}

/// What ends a connection that rests on no SVID: far enough away never to matter, near enough for every clock type.
const YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);

impl Validity {
    /// A connection established at `now` whose SVIDs end at `ends` (the earlier of the two).
    fn until(now: SystemTime, ends: SystemTime) -> Self {
        let life = ends.duration_since(now).unwrap_or_default();
        // Records are closed before the SVID's last moment, not at it.
        let margin = (life / 50).min(Duration::from_secs(1));
        let hard = now + life.saturating_sub(margin);
        Self { soft: now + life * 8 / 10, idle: now + life * 9 / 10, hard }
    }

    fn unlimited(now: SystemTime) -> Self {
        Self { soft: now + YEARS, idle: now + YEARS, hard: now + YEARS }
    }
}

/// The time until `then`, zero when it has passed.
fn time_until(then: SystemTime) -> Duration {
    then.duration_since(SystemTime::now()).unwrap_or_default()
}

/// Ends a TCP connection with a reset: the peer learns that it was refused, not that all was said.
fn reset(stream: &tokio::net::TcpStream) {
    let _closing_anyway = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

impl Context {
    /// A declared port of the own service.
    fn own_port(&self, port: u16) -> Option<Port> {
        let service = self.services.table().by_name(&self.options.service)?;
        service.ports.iter().find(|declared| declared.port == port).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_ends_before_the_svid_does() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for life in [0, 1, 5, 3600] {
            let ends = now + Duration::from_secs(life);
            let validity = Validity::until(now, ends);
            assert!(validity.soft <= validity.idle && validity.idle <= validity.hard && validity.hard <= ends);
            assert!(life == 0 || validity.hard < ends);
        }
        let passed = Validity::until(now, now - Duration::from_secs(9));
        assert_eq!(passed.hard, now);
    }
}
