//! Connections that come in: on the redirected port, by TLS or plaintext as the port's mode says, and by HBONE. Each ends
//! as a [`Secured`] value that the request or the opaque stage takes, or it is refused with a record.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use super::ended::{Bounds, End, ended};
use super::relay::asked_port;
use super::tell::{Story, Told};
use super::{Abort, Context, Secured, Trust, Validity, Via, fallen, request};
use crate::authz::{self, Decision, Facts, Principal, Verdict, What};
use crate::detect::{Detected, Prefixed, Protocol, detect};
use crate::forward::{Progress, abort, connect_app, copy_both};
use crate::intercept::{accepted, canonical};
use crate::observe::{Direction, Label};
use crate::services::{Mode, Port, Protocol as Declared};
use crate::snapshot::Snapshot;
use crate::tls::{MeshTls, ServerProfile, Session, explain, label, session};
use crate::tunnel::{Incoming, ServeOptions, serve};

/// A connection on the redirected port.
pub async fn redirected(ctx: Arc<Context>, stream: TcpStream, peer: SocketAddr) {
    let story = Story::inbound(canonical(peer));
    let accepted = match accepted(stream, peer, &ctx.options.own_ports) {
        Ok(accepted) => accepted,
        Err(error) => return story.refused(&ctx, error.label(), &error.to_string()),
    };
    let story = story.to(accepted.original);
    let Some(port) = ctx.own_port(accepted.original.port()) else {
        abort(&accepted.stream);
        return story.refused(
            &ctx,
            "undeclared_port",
            "no service port of this number is declared",
        );
    };
    let began = Instant::now();
    let looking = detect(accepted.stream, ctx.options.detect_timeout).await;
    let (detected, stream) = match looking {
        Ok(found) => found,
        Err(error) => return story.refused(&ctx, "read_failed", &error.to_string()),
    };
    ctx.metrics.detected(detected.label(), began.elapsed());
    let asked = Arrived {
        story,
        port,
        stream,
        original: accepted.original,
        src: accepted.peer,
    };
    match detected {
        Detected::Is(Protocol::Tls) => tls_on_port(ctx, asked).await,
        Detected::Is(_) => plaintext(ctx, asked).await,
        // A protocol in which the server speaks first is silent here; on an http port it can only be wrong.
        Detected::TimedOut { silent: true } if asked.port.protocol == Declared::Opaque => {
            plaintext(ctx, asked).await
        }
        Detected::TimedOut { .. } => {
            asked.refuse(&ctx, "detection_timeout", "the first bytes did not come in time")
        }
        Detected::Closed => asked.refuse(&ctx, "closed_early", "closed before the protocol could be told"),
    }
}

/// A redirected connection whose first bytes were looked at.
struct Arrived {
    story: Story,
    port: Port,
    stream: Prefixed<TcpStream>,
    original: SocketAddr,
    src: SocketAddr,
}

impl Arrived {
    fn refuse(self, ctx: &Context, reason: &'static str, detail: &str) {
        abort(self.stream.get_ref());
        self.story.refused(ctx, reason, detail);
    }
}

async fn plaintext(ctx: Arc<Context>, asked: Arrived) {
    if asked.port.mode == Mode::Strict {
        return asked.refuse(&ctx, "plaintext_on_strict_port", "the port takes mutual TLS only");
    }
    ctx.metrics
        .plaintext_accepted(asked.port.port, Label::fixed("unknown"));
    let secured = Secured {
        peer: None,
        via: Via::Plaintext,
        tls: None,
        trust: None,
        src: asked.src,
        port: asked.port,
        app: asked.original,
        validity: Validity::unlimited(SystemTime::now()),
    };
    established(ctx, secured, asked.story, asked.stream).await;
}

/// Mutual TLS straight on the application's port, or server TLS for clients of a public port.
async fn tls_on_port(ctx: Arc<Context>, asked: Arrived) {
    let snapshot = ctx.current.load();
    let Arrived {
        story,
        port,
        stream,
        original,
        src,
    } = asked;
    let acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
    let start = match tokio::time::timeout(ctx.options.handshake_timeout, acceptor).await {
        Ok(Ok(start)) => start,
        Ok(Err(error)) => return failed_handshake(&ctx, story, label(&error), &explain(&error)),
        Err(_) => return story.refused(&ctx, "handshake_timeout", "no ClientHello in time"),
    };
    let named = start.client_hello().server_name().map(str::to_owned);
    let for_public = (port.mode == Mode::Public
        && !names_mesh(named.as_deref(), snapshot.mesh.trust_domain.as_str()))
    .then(|| ctx.options.public_tls.load_full())
    .flatten();
    let (config, mesh) = match (for_public, &snapshot.tls) {
        (Some(config), _) => (config, None),
        (None, Ok(tls)) => (tls.server(profile(&port)), Some(Arc::clone(tls))),
        (None, Err(reason)) => return story.refused(&ctx, "no_identity", reason),
    };
    let shake = tokio::time::timeout(ctx.options.handshake_timeout, start.into_stream(config));
    let stream = match shake.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return failed_handshake(&ctx, story, label(&error), &unshaken(&port, &error)),
        Err(_) => return story.refused(&ctx, "handshake_timeout", "the handshake did not end in time"),
    };
    let session = match session(stream.get_ref().1) {
        Ok(session) => session,
        Err(error) => return failed_handshake(&ctx, story, "peer_untrusted", &error.to_string()),
    };
    ctx.metrics
        .handshake(Direction::Inbound, session.version, session.kx, "ok");
    let validity = validity(mesh.as_deref(), &session);
    let via = if session.peer.is_some() {
        Via::Mtls
    } else {
        Via::ServerTls
    };
    let trust = mesh
        .as_deref()
        .and_then(|mesh| Trust::of(mesh, stream.get_ref().1));
    let secured = Secured {
        peer: session.peer,
        via,
        tls: Some((session.version, session.kx)),
        trust,
        src,
        port,
        app: original,
        validity,
    };
    established(ctx, secured, story, stream).await;
}

fn failed_handshake(ctx: &Context, story: Story, label: &'static str, detail: &str) {
    ctx.metrics.handshake(Direction::Inbound, "", "", label);
    let reason = if label == "revoked" {
        label
    } else {
        "handshake_failed"
    };
    story.refused(ctx, reason, detail);
}

fn profile(port: &Port) -> ServerProfile {
    match port.protocol {
        Declared::Http => ServerProfile::Port,
        Declared::Opaque => ServerProfile::Opaque,
    }
}

/// Why a handshake failed; on a public port with what would let a client without a certificate in.
fn unshaken(port: &Port, error: &std::io::Error) -> String {
    let why = explain(error);
    if port.mode == Mode::Public && label(error) == "no_client_certificate" {
        return format!(
            "{why}: TLS that names the mesh or nobody is for mesh peers, also on a public port; other clients name the \
             host of `inbound.public_certificate`"
        );
    }
    why
}

/// Whether a server name belongs to the mesh, or nobody is named: then our SVID is shown and a client certificate needed,
/// also on a public port. Browsers, which would prompt their user for one, name the public host.
fn names_mesh(server_name: Option<&str>, trust_domain: &str) -> bool {
    server_name.is_none_or(|name| {
        name == trust_domain
            || name
                .strip_suffix(trust_domain)
                .is_some_and(|rest| rest.ends_with('.'))
    })
}

fn validity(mesh: Option<&MeshTls>, session: &Session) -> Validity {
    let now = SystemTime::now();
    match (&session.peer, mesh) {
        (Some(peer), Some(mesh)) => Validity::until(now, peer.not_after.min(mesh.identity().not_after)),
        (None, Some(mesh)) => Validity::until(now, mesh.identity().not_after),
        _ => Validity::unlimited(now),
    }
}

async fn established<S>(ctx: Arc<Context>, secured: Secured, story: Story, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Abort,
{
    match secured.port.protocol {
        Declared::Http => request::serve(&ctx, &secured, story, stream).await,
        Declared::Opaque => opaque(&ctx, &secured, story, stream).await,
    }
}

/// A connection on the HBONE port: mutual TLS, then CONNECT streams.
pub async fn hbone(ctx: Arc<Context>, stream: TcpStream, peer: SocketAddr) {
    let src = canonical(peer);
    let story = Story::inbound(src);
    let Ok(local) = stream.local_addr().map(canonical) else {
        return;
    };
    let tls = match &ctx.current.load().tls {
        Ok(tls) => Arc::clone(tls),
        Err(reason) => {
            abort(&stream);
            return story.refused(&ctx, "no_identity", reason);
        }
    };
    let (stream, session) = match hbone_handshake(&ctx, &tls, stream).await {
        Ok(secured) => secured,
        Err((label, detail)) => return failed_handshake(&ctx, story, label, &detail),
    };
    ctx.metrics
        .handshake(Direction::Inbound, session.version, session.kx, "ok");
    let validity = validity(Some(&tls), &session);
    let trust = Trust::of(&tls, stream.get_ref().1);
    let tunnel = Arc::new(Tunnel {
        session,
        trust,
        src,
        local,
        validity,
    });
    let options = ServeOptions {
        max_streams: ctx.options.streams_per_tunnel,
        max_age: ctx.options.tunnel_max_age,
        drain_timeout: ctx.options.drain_timeout,
        preface_timeout: ctx.options.handshake_timeout,
        valid_until: validity.hard,
    };
    let handle = tokio::runtime::Handle::current();
    // A peer that has fallen gets no new stream; those that are open end by themselves.
    let (draining, watched, whose) = (ctx.drain.clone(), Arc::clone(&ctx), Arc::clone(&tunnel));
    let over = async move {
        tokio::select! {
            () = draining.beginning() => {}
            () = fallen(&watched, whose.session.peer.as_ref(), whose.trust.as_ref()) => {}
        }
    };
    let on_stream = move |incoming: Incoming| {
        let (ctx, tunnel) = (Arc::clone(&ctx), Arc::clone(&tunnel));
        ctx.drain.clone().spawn(&handle, tunnelled(ctx, tunnel, incoming));
    };
    let serving = serve(stream, &options, on_stream, over);
    if let Err(error) = serving.await {
        tracing::debug!(peer = %src, %error, "tunnel ended");
    }
}

type Failed = (&'static str, String);

async fn hbone_handshake(
    ctx: &Context,
    tls: &MeshTls,
    stream: TcpStream,
) -> Result<(TlsStream<TcpStream>, Session), Failed> {
    let accepting = TlsAcceptor::from(tls.server(ServerProfile::Hbone)).accept(stream);
    let stream = match tokio::time::timeout(ctx.options.handshake_timeout, accepting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err((label(&error), explain(&error))),
        Err(_) => return Err(("timeout", "the handshake did not end in time".to_owned())),
    };
    let session = session(stream.get_ref().1).map_err(|error| ("peer_untrusted", error.to_string()))?;
    if session.peer.is_none() {
        return Err((
            "no_client_certificate",
            "the peer presented no certificate".to_owned(),
        ));
    }
    Ok((stream, session))
}

/// What holds for every stream of one tunnel.
struct Tunnel {
    session: Session,
    trust: Option<Trust>,
    src: SocketAddr,
    local: SocketAddr,
    validity: Validity,
}

/// One CONNECT stream. The server is no relay: the authority must be this pod's own address, as the tunnel reached it, and
/// a declared port that is none of ours.
async fn tunnelled(ctx: Arc<Context>, tunnel: Arc<Tunnel>, incoming: Incoming) {
    let story = Story::inbound(tunnel.src).tls(&tunnel.session);
    let authority = match incoming.authority() {
        Ok(authority) => canonical(authority),
        Err(error) => {
            incoming.refuse(400, "bad_authority");
            return story.refused(&ctx, "bad_authority", &error.to_string());
        }
    };
    let story = story.to(authority);
    let port = match asked_port(&ctx, authority, tunnel.local) {
        Ok(port) => port,
        Err(detail) => {
            incoming.refuse(400, "no_relay");
            return story.refused(&ctx, "no_relay", &detail);
        }
    };
    let secured = Secured {
        peer: tunnel.session.peer.clone(),
        via: Via::Hbone,
        tls: Some((tunnel.session.version, tunnel.session.kx)),
        trust: tunnel.trust.clone(),
        src: tunnel.src,
        port,
        app: authority,
        validity: tunnel.validity,
    };
    match secured.port.protocol {
        Declared::Http => match incoming.accept() {
            Ok(stream) => request::serve(&ctx, &secured, story, stream).await,
            Err(error) => tracing::debug!(peer = %tunnel.src, %error, "stream ended before it was taken"),
        },
        Declared::Opaque => opaque_stream(&ctx, &secured, story, incoming).await,
    }
}

/// Opaque bytes by HBONE: decided and connected before the stream is taken, so that the peer learns which it was.
async fn opaque_stream(ctx: &Arc<Context>, secured: &Secured, story: Story, incoming: Incoming) {
    let snapshot = ctx.current.load();
    // The tunnel may be older than the bundles.
    if let Err(fallen) = secured.still_trusted(&snapshot, SystemTime::now()) {
        incoming.refuse(403, fallen.label());
        return story.refused(ctx, fallen.label(), &fallen.to_string());
    }
    let decision = connect_decision(&snapshot, secured);
    if decision.verdict == Verdict::Deny {
        incoming.refuse(401, decision.reason.label());
        return story.decided(ctx, secured, &decision, &Told::denied());
    }
    let app = match connect_app(secured.app, &ctx.options.dial).await {
        Ok(app) => app,
        Err(error) => {
            incoming.refuse(503, error.label());
            return story.decided(ctx, secured, &decision, &Told::failed(error.label(), &error));
        }
    };
    match incoming.accept() {
        Ok(stream) => {
            moved(
                ctx,
                secured,
                story,
                Moving {
                    stream,
                    app,
                    decision,
                    decided: snapshot.generation,
                },
            )
            .await
        }
        Err(error) => story.decided(ctx, secured, &decision, &Told::failed("peer_gone", &error)),
    }
}

/// Opaque bytes on the port itself.
async fn opaque<S>(ctx: &Arc<Context>, secured: &Secured, story: Story, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Abort,
{
    let snapshot = ctx.current.load();
    if let Err(fallen) = secured.still_trusted(&snapshot, SystemTime::now()) {
        stream.abort();
        return story.refused(ctx, fallen.label(), &fallen.to_string());
    }
    let decision = connect_decision(&snapshot, secured);
    if decision.verdict == Verdict::Deny {
        return story.decided(ctx, secured, &decision, &Told::denied());
    }
    match connect_app(secured.app, &ctx.options.dial).await {
        Ok(app) => {
            moved(
                ctx,
                secured,
                story,
                Moving {
                    stream,
                    app,
                    decision,
                    decided: snapshot.generation,
                },
            )
            .await
        }
        Err(error) => story.decided(ctx, secured, &decision, &Told::failed(error.label(), &error)),
    }
}

struct Moving<S> {
    stream: S,
    app: TcpStream,
    decision: Decision,
    decided: u64,
}

async fn moved<S>(ctx: &Arc<Context>, secured: &Secured, story: Story, mut moving: Moving<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Abort,
{
    let progress = Progress::default();
    let open = ctx.open(Direction::Inbound, "opaque", secured.proven());
    let again = |snapshot: &Snapshot, _: Option<&authz::User>| connect_decision(snapshot, secured);
    let bounds = Bounds {
        decided: moving.decided,
        user: None,
    };
    let copying = copy_both(
        &mut moving.stream,
        &mut moving.app,
        ctx.options.opaque_idle,
        &progress,
    );
    let told = tokio::select! {
        copied = copying => {
            if copied.end.is_abort() {
                moving.stream.abort();
                abort(&moving.app);
            }
            Told::copied(&copied)
        }
        end = ended(ctx, secured, bounds, again) => {
            moving.stream.abort();
            abort(&moving.app);
            let told = Told::cut(&end, &progress);
            if let End::Denied(decision) = end {
                moving.decision = *decision;
            }
            told
        }
    };
    let (received, sent) = progress.counts();
    open.carried(received, sent);
    story.decided(ctx, secured, &moving.decision, &told);
}

fn connect_decision(snapshot: &Snapshot, secured: &Secured) -> Decision {
    let now = SystemTime::now();
    snapshot.policies.decide(&Facts {
        principal: principal(secured),
        port: secured.port.port,
        tls: secured.tls.is_some(),
        src_ip: secured.src.ip(),
        now_millis: super::tell::millis(now),
        what: What::Connect,
    })
}

/// The peer as policies see it.
pub(super) fn principal(secured: &Secured) -> Principal<'_> {
    secured
        .peer
        .as_ref()
        .map_or(Principal::Plaintext, |peer| Principal::Workload(&peer.id))
}

#[cfg(test)]
mod tests {
    use super::names_mesh;

    #[test]
    fn a_browser_is_not_asked_for_a_certificate() {
        assert!(names_mesh(None, "mesh.local"));
        assert!(names_mesh(Some("mesh.local"), "mesh.local"));
        assert!(names_mesh(Some("orders.shop.mesh.local"), "mesh.local"));
        assert!(!names_mesh(Some("shop.example"), "mesh.local"));
        assert!(!names_mesh(Some("evilmesh.local"), "mesh.local"));
    }
}
