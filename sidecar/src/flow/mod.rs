//! The story: the order of the stages, for connections that come in, for connections that go out, and for each HTTP
//! request. No other room knows it. What a stage cannot prove it does not hand on.

mod assert;
mod caller;
mod decided;
mod ended;
mod inbound;
mod outbound;
mod relay;
mod request;
mod spelled;
mod streams;
mod tell;
mod tell_request;
mod token;
mod unreached;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

pub use caller::as_user;
pub use inbound::{hbone, redirected};
pub use outbound::{Probe, outbound};

use arc_swap::ArcSwapOption;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::assertion::Signer;
use crate::authn::{Authenticator, Proofs};
use crate::detect::Prefixed;
use crate::dial::DialOptions;
use crate::forward::abort;
use crate::forward::http2::{Apps, Slots};
use crate::observe::{Denials, Direction, Journal, Kind, Metrics, Proven, Record, UserLog};
use crate::request::Limits;
use crate::runtime::Drain;
use crate::services::{Mode, Port, Resolver};
use crate::snapshot::{Current, Snapshot};
use crate::tls::{MeshTls, Peer, TlsError};
use crate::tunnel::{Pool, TunnelStream, valid_until, winding_down};

/// Everything that the stages share.
pub struct Context {
    /// Identity, policies and mesh file in force.
    pub current: Arc<Current>,
    /// The table of services and its look-ups.
    pub services: Arc<Resolver>,
    /// Tunnels to peers.
    pub pool: Arc<Pool>,
    /// What the applications speak.
    pub apps: Apps,
    /// Connections that streams of HTTP/2 may have to applications of HTTP/1.1.
    pub slots: Slots,
    /// User tokens.
    pub authn: Arc<Authenticator>,
    /// Proofs of possession, as long as they could be used again.
    pub proofs: Proofs,
    /// The signed statement for the application, if one is asked for.
    pub assertion: Option<Arc<Signer>>,
    /// Where records go.
    pub journal: Arc<Journal>,
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
    /// How users are written into records.
    pub users: UserLog,
    /// What was refused lately.
    pub denials: Denials,
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
    /// The age past which a tunnel is asked to be opened anew.
    pub tunnel_max_age: Duration,
    /// How many streams a peer may have open in one tunnel.
    pub streams_per_tunnel: u32,
    /// How long what is open may go on once the drain has begun.
    pub drain_timeout: Duration,
    /// Whether records hold what their decision was made on.
    pub record_inputs: bool,
    /// Server TLS for clients of `public` ports that have no workload identity, as its files say now.
    pub public_tls: Arc<ArcSwapOption<rustls::ServerConfig>>,
}

/// Who is at the other end of an inbound connection, as far as it was proven. Only the inbound stages make one.
#[derive(Clone)]
struct Secured {
    /// The peer's SVID; `None` is plaintext, or TLS without a client certificate, on a port whose mode allows it.
    peer: Option<Peer>,
    /// How the connection came.
    via: Via,
    /// TLS version and key exchange.
    tls: Option<(&'static str, &'static str)>,
    /// What the peer's identity rests on.
    trust: Option<Trust>,
    /// The socket's other end.
    src: SocketAddr,
    /// The declared port.
    port: Port,
    /// Where the application is dialled: the pod's own address, never loopback.
    app: SocketAddr,
    /// Until when what was proven holds.
    validity: Validity,
}

/// What a peer's identity rests on: the chain that it presented, and the configuration under which that was last proven.
#[derive(Clone)]
struct Trust {
    chain: Arc<[CertificateDer<'static>]>,
    /// [`MeshTls::generation`] of the last proof.
    proven_under: Arc<AtomicU64>,
}

impl Trust {
    /// Of a finished handshake under `tls`; `None` when no certificate came.
    fn of(tls: &MeshTls, connection: &rustls::CommonState) -> Option<Self> {
        let chain = connection.peer_certificates()?;
        let chain = chain.iter().map(|cert| cert.clone().into_owned()).collect();
        Some(Self {
            chain,
            proven_under: Arc::new(AtomicU64::new(tls.generation())),
        })
    }

    /// Whether the chain proves the same under the bundles of now. Costs a comparison unless they changed.
    fn holds(&self, tls: &MeshTls, now: SystemTime) -> Result<(), TlsError> {
        if self.proven_under.load(Ordering::Acquire) == tls.generation() {
            return Ok(());
        }
        tls.recheck_client(&self.chain, now)?;
        self.proven_under.store(tls.generation(), Ordering::Release);
        Ok(())
    }
}

/// What has become of a peer that was proven, or of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fallen {
    /// Its certificate was revoked.
    Revoked,
    /// It would not be let in under the bundles of now, or we have no identity any more.
    Distrusted,
}

impl std::fmt::Display for Fallen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Revoked => "the peer's certificate was revoked",
            Self::Distrusted => "the peer's certificate is not trusted any more, or our own identity is gone",
        })
    }
}

impl Fallen {
    /// A stable label for records and metrics.
    fn label(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Distrusted => "peer_distrusted",
        }
    }
}

/// Whether a peer would still be let in under the identity and bundles of `snapshot`.
fn standing(
    (peer, trust): (Option<&Peer>, Option<&Trust>),
    snapshot: &Snapshot,
    now: SystemTime,
) -> Result<(), Fallen> {
    match (peer, trust, &snapshot.tls) {
        (None, ..) => Ok(()),
        (Some(_), Some(trust), Ok(tls)) => trust.holds(tls, now).map_err(|error| match error {
            TlsError::Revoked => Fallen::Revoked,
            _ => Fallen::Distrusted,
        }),
        // Without an identity of our own there is no mesh traffic; without a chain nothing can be proven again.
        _ => Err(Fallen::Distrusted),
    }
}

/// Resolves when a peer would not be let in any more.
async fn fallen(ctx: &Context, peer: Option<&Peer>, trust: Option<&Trust>) {
    let mut changes = ctx.current.changes();
    while standing((peer, trust), &ctx.current.load(), SystemTime::now()).is_ok() {
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// How an inbound connection came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Via {
    Hbone,
    Mtls,
    ServerTls,
    Plaintext,
}

/// Until when a connection may live: what was proven at its start holds until one of the two SVIDs ends.
#[derive(Clone, Copy)]
struct Validity {
    /// From here on answers ask the client to come again on a new connection.
    soft: SystemTime,
    /// Here the rest is cut.
    hard: SystemTime,
}

/// What ends a connection that rests on no SVID: far enough away never to matter, near enough for every clock type.
const YEARS: Duration = Duration::from_secs(10 * 365 * 86_400);

impl Validity {
    /// A connection established at `now` whose SVIDs end at `ends` (the earlier of the two).
    fn until(now: SystemTime, ends: SystemTime) -> Self {
        // As tunnels end: records are closed before the SVID's last moment, not at it.
        let hard = valid_until(ends, ends, now).max(now);
        let soft = winding_down(hard, now);
        Self { soft, hard }
    }

    /// From here on an idle connection is closed: the time before is for clients that come with another request and are
    /// told, the time after for the last answers. `share`, from 0 to 1, spreads the connections of one tunnel, so that
    /// they neither close nor come back all at once.
    fn idle(&self, share: f64) -> SystemTime {
        let notice = self.hard.duration_since(self.soft).unwrap_or_default();
        self.soft + notice.mul_f64(0.4 + 0.2 * share.clamp(0.0, 1.0))
    }

    fn unlimited(now: SystemTime) -> Self {
        Self {
            soft: now + YEARS,
            hard: now + YEARS,
        }
    }
}

/// A client's side that can be ended so that nobody takes what was sent for whole.
trait Abort {
    /// Prepares for being dropped: a plain socket is reset, where it would otherwise close in order.
    fn abort(&self);
}

impl Abort for Prefixed<TcpStream> {
    fn abort(&self) {
        abort(self.get_ref());
    }
}

/// Without `shutdown` it ends without `close_notify`, which tells the client.
impl<S> Abort for TlsStream<S> {
    fn abort(&self) {}
}

/// Dropped before its end, it is reset.
impl Abort for TunnelStream {
    fn abort(&self) {}
}

/// The time until `then`, zero when it has passed.
fn time_until(then: SystemTime) -> Duration {
    then.duration_since(SystemTime::now()).unwrap_or_default()
}

impl Secured {
    /// Whether the peer would still be let in under the identity and bundles of `snapshot`.
    fn still_trusted(&self, snapshot: &Snapshot, now: SystemTime) -> Result<(), Fallen> {
        standing((self.peer.as_ref(), self.trust.as_ref()), snapshot, now)
    }

    /// Resolves when the peer would not be let in any more.
    async fn fallen(&self, ctx: &Context) {
        fallen(ctx, self.peer.as_ref(), self.trust.as_ref()).await;
    }

    /// Whether the port is still declared, for the same protocol and for a peer like this. Costs a look-up.
    fn still_admitted(&self, ctx: &Context) -> bool {
        let Some(port) = ctx.own_port(self.port.port) else {
            return false;
        };
        let mode = match (&self.peer, self.via) {
            (Some(_), _) => true,
            (None, Via::Plaintext) => port.mode != Mode::Strict,
            (None, _) => port.mode == Mode::Public,
        };
        mode && port.protocol == self.port.protocol
    }

    /// What was proven of the peer, for metrics.
    fn proven(&self) -> Proven {
        Proven::of(self.peer.is_some(), false)
    }
}

impl Context {
    /// Writes a record, with the time of its end; counts its decision when it is a connection's (a request's is counted by
    /// its connection's meter).
    fn tell(&self, mut record: Record) {
        record.ts = SystemTime::now();
        if let (Kind::Connection, Some(decision)) = (record.kind, &record.decision) {
            self.metrics.decided(&tell::decision_labels(&record, decision));
        }
        if let Some(decision) = &record.decision {
            for labels in tell::shadow_labels(&record, decision).into_iter().flatten() {
                self.metrics.would(&labels);
            }
        }
        let made = record.decision.as_mut().and_then(|decision| decision.made.take());
        if let Some(made) = made.as_ref().filter(|_| self.options.record_inputs) {
            record.inputs = Some(Box::new(made.inputs.logged(tell::subject(&record))));
        }
        if record.by_us {
            self.denials.keep(&record, made);
        }
        self.journal.write(record);
    }

    /// Counts a connection as open for as long as the answer lives.
    fn open(
        &self,
        direction: Direction,
        protocol: &'static str,
        proven: Proven,
    ) -> crate::observe::ConnectionMeter {
        self.metrics.connection(direction, protocol, proven)
    }

    /// A declared port of the own service.
    fn own_port(&self, port: u16) -> Option<Port> {
        let service = self.services.table().by_name(&self.options.service)?;
        service
            .ports
            .iter()
            .find(|declared| declared.port == port)
            .cloned()
    }
}

/// The labels of what ends something open.
#[cfg(test)]
pub(crate) const ENDS: &[&str] = ended::End::LABELS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_ends_before_the_svid_does() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for life in [0, 1, 5, 3600] {
            let ends = now + Duration::from_secs(life);
            let validity = Validity::until(now, ends);
            assert!(
                validity.soft <= validity.idle(0.0)
                    && validity.idle(0.0) <= validity.idle(1.0)
                    && validity.idle(1.0) <= validity.hard
                    && validity.hard <= ends
            );
            assert!(life == 0 || validity.hard < ends);
        }
        let passed = Validity::until(now, now - Duration::from_secs(9));
        assert_eq!(passed.hard, now);
    }
}
