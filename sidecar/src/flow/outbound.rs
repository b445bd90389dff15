//! Connections that go out: the application's, redirected to us. A known destination is reached by HBONE as the identity
//! it must prove; an unknown one follows the egress setting. When it cannot be, an HTTP/1 client gets an answer with the
//! reason, anything else a reset.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use spiffe::SpiffeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::ended::End;
use super::tell::{Story, Told};
use super::unreached::answer_streams;
use super::{Context, Fallen, time_until};
use crate::detect::{Detected, Prefixed, Protocol, detect};
use crate::forward::{ErrorAnswer, Progress, abort, copy_both, error_response};
use crate::intercept::{accepted, canonical};
use crate::observe::{Direction, Proven, decision_id};
use crate::services::{self, Found};
use crate::tls::MeshTls;
use crate::tunnel::{self, Opened, Target, TunnelError};

/// Hears that the redirect is in place: the sidecar connects, unmarked, to an address that nobody means, and the redirect
/// must bring that connection to its own listener.
#[derive(Default)]
pub struct Probe {
    v4: Ear,
    v6: Ear,
}

/// What is listened for in one family.
#[derive(Default)]
struct Ear {
    target: ArcSwapOption<SocketAddr>,
    heard: AtomicBool,
}

impl Probe {
    /// The port of a probe: discard (RFC 863). `hopguard iptables` redirects connections to it even when the sidecar's
    /// user or group opens them.
    pub const PORT: u16 = 9;
    /// Documentation addresses (RFC 5737, RFC 3849): no packet to them is ever meant for anyone.
    pub const V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 104)), Self::PORT);
    /// See [`Probe::V4`].
    pub const V6: SocketAddr = SocketAddr::new(
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x686f, 0x7067)),
        Self::PORT,
    );

    /// Listens for a connection to `target`, afresh.
    pub fn listen_for(&self, target: SocketAddr) {
        let ear = self.ear(target);
        ear.target.store(Some(Arc::new(target)));
        ear.heard.store(false, Ordering::Release);
    }

    /// Whether the connection that is listened for in the family of `target` has arrived.
    pub fn heard(&self, target: SocketAddr) -> bool {
        self.ear(target).heard.load(Ordering::Acquire)
    }

    fn hear(&self, original: SocketAddr) -> bool {
        let ear = self.ear(original);
        let is_it = ear.target.load().as_deref() == Some(&original);
        if is_it {
            ear.heard.store(true, Ordering::Release);
        }
        is_it
    }

    fn ear(&self, address: SocketAddr) -> &Ear {
        if address.is_ipv4() { &self.v4 } else { &self.v6 }
    }
}

/// How long the first bytes of a client may take that is to be told why it failed.
const TELL_WAIT: Duration = Duration::from_secs(1);

/// How much a refused client may still send before it is cut.
const TELL_DRAIN: usize = 256 * 1024;

/// One redirected connection of the application.
pub async fn outbound(ctx: Arc<Context>, stream: TcpStream, peer: SocketAddr) {
    let story = Story::outbound(canonical(peer));
    let accepted = match accepted(stream, peer, &ctx.options.own_ports) {
        Ok(accepted) => accepted,
        Err(error) => return story.refused(&ctx, error.label(), &error.to_string()),
    };
    if ctx.probe.hear(accepted.original) {
        return;
    }
    let story = story.to(accepted.original);
    let mut found = ctx.services.table().find(accepted.original);
    if found.is_none() && ctx.services.resolve_miss(accepted.original).await {
        // Once on a miss: the service may have moved since its name was last looked up.
        found = ctx.services.table().find(accepted.original);
    }
    match found {
        Some(found) => to_peer(&ctx, story, accepted.stream, found, accepted.original).await,
        // Where the redirect tells us by uid or gid, our own connection to this port would come back to us, for ever.
        None if accepted.original.port() == Probe::PORT => {
            let why = Why {
                status: 502,
                reason: "probe_port",
                detail: "port 9 (discard) is kept for the sidecar's own look at the redirect",
            };
            fail(&ctx, story, accepted.stream, &why).await;
        }
        None if ctx.options.egress_plain => {
            to_the_world(&ctx, story, accepted.stream, accepted.original).await
        }
        None => {
            let why = Why {
                status: 502,
                reason: "egress_denied",
                detail: "no service of the mesh has this address",
            };
            fail(&ctx, story, accepted.stream, &why).await;
        }
    }
}

async fn to_peer(ctx: &Arc<Context>, story: Story, stream: TcpStream, found: Found, original: SocketAddr) {
    let story = story.service(&found.service.name);
    let protocol = found.port.protocol;
    let tls = match &ctx.current.load().tls {
        Ok(tls) => Arc::clone(tls),
        Err(reason) => {
            let why = Why {
                status: 503,
                reason: "no_identity",
                detail: reason,
            };
            return failed(ctx, story, stream, (&why, protocol)).await;
        }
    };
    let story = story.own(&tls.identity().id);
    let target = Target {
        tunnel_addr: SocketAddr::new(original.ip(), ctx.options.hbone_port),
        authority: original,
        expected: Arc::clone(&found.service.spiffe_ids),
        headers: vec![
            ("traceparent", story.trace().to_string()),
            (
                "forwarded",
                format!(
                    "for=\"{}\";host={}",
                    story.from(),
                    found.service.name.replace('/', ".")
                ),
            ),
        ],
    };
    match open(ctx, &tls, &target).await {
        Ok(opened) => tunnelled(ctx, story, stream, (opened, &found)).await,
        Err(error) => {
            let (status, reason) = answer_for(&error);
            let detail = error.to_string();
            let why = Why {
                status,
                reason,
                detail: &detail,
            };
            failed(ctx, story, stream, (&why, protocol)).await;
        }
    }
}

/// A connection to a service of the mesh that cannot be: whoever calls an opaque port speaks a protocol that is not ours to
/// know, so it ends at once.
async fn failed(
    ctx: &Arc<Context>,
    story: Story,
    stream: TcpStream,
    (why, protocol): (&Why<'_>, services::Protocol),
) {
    if protocol == services::Protocol::Opaque {
        abort(&stream);
        return story.refused(ctx, why.reason, why.detail);
    }
    fail(ctx, story, stream, why).await;
}

async fn open(ctx: &Context, tls: &Arc<MeshTls>, target: &Target) -> Result<Opened, TunnelError> {
    ctx.pool.open(tls, target, SystemTime::now()).await
}

/// What the application is told: 502 when the peer is not who it must be or refuses us, 503 when it cannot be reached.
fn answer_for(error: &TunnelError) -> (u16, &'static str) {
    let status = match error {
        TunnelError::Refused { status: 503, .. } => 503,
        // It hung up or was silent, as one does that has no identity yet.
        TunnelError::Handshake {
            label: "closed" | "timeout",
            ..
        } => 503,
        // It is there and not who it must be, or it does not want us.
        TunnelError::Refused { .. } | TunnelError::Handshake { .. } => 502,
        _ => 503,
    };
    (status, error.label())
}

async fn tunnelled(
    ctx: &Arc<Context>,
    story: Story,
    mut stream: TcpStream,
    (mut opened, found): (Opened, &Found),
) {
    let story = story.peer(&opened.peer, &opened.session);
    let progress = Progress::default();
    let open = ctx.open(Direction::Outbound, "hbone", Proven::Workload);
    let told = tokio::select! {
        copied = copy_both(&mut stream, &mut opened.stream, ctx.options.opaque_idle, &progress) => {
            if copied.end.is_abort() {
                abort(&stream);
            }
            // The tunnel may have been cut under the connection: then that is why it ended.
            match opened.stream.tunnel_ended() {
                Some(tunnel::End::Untrusted(_)) => Told::cut(&End::Fallen(Fallen::Distrusted), &progress),
                Some(tunnel::End::Revoked) => Told::cut(&End::Fallen(Fallen::Revoked), &progress),
                Some(tunnel::End::Expired) => Told::cut(&End::Svid, &progress),
                _ => Told::copied(&copied),
            }
        }
        () = tokio::time::sleep(time_until(opened.valid_until)) => {
            abort(&stream);
            Told::cut(&End::Svid, &progress)
        }
        () = identity_lost(ctx) => {
            abort(&stream);
            Told::cut(&End::Fallen(Fallen::Distrusted), &progress)
        }
        () = no_longer_expected(ctx, found, &opened.peer.id) => {
            abort(&stream);
            Told::cut(&End::NotExpected, &progress)
        }
        () = drained(ctx) => {
            abort(&stream);
            Told::cut(&End::Drained, &progress)
        }
    };
    let (sent, received) = progress.counts();
    open.carried(sent, received);
    story.passed(ctx, "tunnelled", &told);
}

/// Resolves when we have no identity any more: then there is no mesh traffic in its name.
async fn identity_lost(ctx: &Context) {
    let mut changes = ctx.current.changes();
    while ctx.current.load().tls.is_ok() {
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Resolves when the sidecar ends and the time of its drain is over.
async fn drained(ctx: &Context) {
    let mut changes = ctx.current.changes();
    while !ctx.drain.is_over() {
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Resolves when the service that was called is not in the mesh any more, or must prove another identity than the one that
/// the connection goes to. Where its names lead by now does not matter: the peer is still who it was.
async fn no_longer_expected(ctx: &Context, called: &Found, peer: &SpiffeId) {
    let mut changes = ctx.services.changes();
    loop {
        let table = ctx.services.table();
        let expected = table.by_name(&called.service.name).is_some_and(|service| {
            service.spiffe_ids.contains(peer) && service.port(called.port.port).is_some()
        });
        if !expected || changes.changed().await.is_err() {
            return;
        }
    }
}

/// `egress = "plain"`: no identity is proven and none is checked, and the record says so.
async fn to_the_world(ctx: &Arc<Context>, story: Story, mut stream: TcpStream, original: SocketAddr) {
    let mut world = match crate::dial::connect(original, &ctx.options.dial).await {
        Ok(world) => world,
        Err(error) => {
            let detail = error.to_string();
            return fail(
                ctx,
                story,
                stream,
                &Why {
                    status: 503,
                    reason: "unreachable",
                    detail: &detail,
                },
            )
            .await;
        }
    };
    let progress = Progress::default();
    let open = ctx.open(Direction::Outbound, "plain", Proven::Nothing);
    let told = tokio::select! {
        copied = copy_both(&mut stream, &mut world, ctx.options.opaque_idle, &progress) => {
            if copied.end.is_abort() {
                abort(&stream);
                abort(&world);
            }
            Told::copied(&copied)
        }
        () = drained(ctx) => {
            abort(&stream);
            abort(&world);
            Told::cut(&End::Drained, &progress)
        }
    };
    let (sent, received) = progress.counts();
    open.carried(sent, received);
    story.passed(ctx, "egress_plain", &told);
}

/// Why a connection of the application goes nowhere.
struct Why<'a> {
    status: u16,
    reason: &'static str,
    detail: &'a str,
}

/// An answer with the reason for a client that speaks HTTP, a reset for any other.
async fn fail(ctx: &Arc<Context>, story: Story, stream: TcpStream, why: &Why<'_>) {
    let id = decision_id();
    let looked = detect(stream, TELL_WAIT).await;
    let (detected, stream) = match looked {
        Ok(looked) => looked,
        Err(error) => return story.refused(ctx, why.reason, &format!("{}; then: {error}", why.detail)),
    };
    let answer = ErrorAnswer {
        status: why.status,
        code: why.reason,
        detail: why.detail,
        id: Some(&id),
        headers: &[("x-hopguard-id", &id)],
        close: true,
        to_head: false,
    };
    match detected {
        Detected::Is(Protocol::Http1) => self::answer(stream, &answer).await,
        Detected::Is(Protocol::Http2) => {
            answer_streams(stream, &ctx.options.limits, &answer, TELL_WAIT).await;
        }
        _ => abort(stream.get_ref()),
    }
    story.failed(ctx, why.reason, why.detail, &id);
}

async fn answer(mut stream: Prefixed<TcpStream>, answer: &ErrorAnswer<'_>) {
    let bytes = error_response(answer);
    let telling = async {
        stream.write_all(&bytes).await?;
        stream.shutdown().await?;
        // Bytes left unread at close would turn the answer into a reset before the client has read it.
        let mut left = TELL_DRAIN;
        let mut scratch = [0u8; 4096];
        while left > 0 {
            let read = stream.read(&mut scratch).await?;
            if read == 0 {
                break;
            }
            left = left.saturating_sub(read);
        }
        Ok::<(), std::io::Error>(())
    };
    let _gone_either_way = tokio::time::timeout(TELL_WAIT, telling).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_heard_by_its_family_alone() {
        let probe = Probe::default();
        assert!(!probe.hear(Probe::V4), "nobody listens for it yet");
        probe.listen_for(Probe::V4);
        assert!(!probe.hear("192.0.2.104:10".parse().unwrap()));
        assert!(probe.hear(Probe::V4));
        assert!(probe.heard(Probe::V4) && !probe.heard(Probe::V6));
        probe.listen_for("10.0.0.254:9".parse().unwrap());
        assert!(!probe.heard(Probe::V4) && !probe.hear(Probe::V4));
    }
}
