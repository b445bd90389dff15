//! What is told of a connection or a request when it ends: what the stages learned enters, one record and its metrics
//! leave. It decides nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::caller::No;
use super::ended::End;
use super::{Context, Secured, Via};
use crate::authn::VerifiedUser;
use crate::authz::{self, Verdict};
use crate::forward::http1::Exchange;
use crate::forward::{Copied, Progress};
use crate::observe::{
    Decision, DecisionLabels, Destination, Direction, Http, Kind, Label, Need, Proven, Record, RequestLabels,
    RequestMeter, Source, Tcp, Text, Timing, Tls, TraceParent, User, decision_id,
};
use crate::request::{Head, Refusal, Version};
use crate::snapshot::Snapshot;
use crate::tls::{Peer, Session};
use spiffe::SpiffeId;

/// Milliseconds since the epoch, as policies see time.
pub(super) fn millis(at: SystemTime) -> i64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// How an opaque connection ended.
pub(super) struct Told {
    bytes_in: u64,
    bytes_out: u64,
    close: &'static str,
    error: Option<(&'static str, String)>,
}

impl Told {
    pub(super) fn denied() -> Self {
        Self {
            bytes_in: 0,
            bytes_out: 0,
            close: "denied",
            error: None,
        }
    }

    pub(super) fn failed(label: &'static str, error: &dyn std::fmt::Display) -> Self {
        Self {
            bytes_in: 0,
            bytes_out: 0,
            close: label,
            error: Some((label, error.to_string())),
        }
    }

    pub(super) fn copied(copied: &Copied) -> Self {
        Self {
            bytes_in: copied.a_to_b,
            bytes_out: copied.b_to_a,
            close: copied.end.label(),
            error: None,
        }
    }

    pub(super) fn cut(end: &End, progress: &Progress) -> Self {
        Self {
            bytes_in: progress.counts().0,
            bytes_out: progress.counts().1,
            close: end.label(),
            error: None,
        }
    }
}

/// One connection, as far as it is known.
pub(super) struct Story {
    direction: Direction,
    from: SocketAddr,
    to: Option<SocketAddr>,
    service: Option<Arc<str>>,
    own: Option<SpiffeId>,
    peer: Option<Peer>,
    tls: Option<(&'static str, &'static str)>,
    trace: TraceParent,
    started: Instant,
}

impl Story {
    pub(super) fn inbound(from: SocketAddr) -> Self {
        Self::new(Direction::Inbound, from)
    }

    pub(super) fn outbound(from: SocketAddr) -> Self {
        Self::new(Direction::Outbound, from)
    }

    fn new(direction: Direction, from: SocketAddr) -> Self {
        let (started, trace) = (Instant::now(), TraceParent::fresh());
        Self {
            direction,
            from,
            to: None,
            service: None,
            own: None,
            peer: None,
            tls: None,
            trace,
            started,
        }
    }

    pub(super) fn to(mut self, to: SocketAddr) -> Self {
        self.to = Some(to);
        self
    }

    pub(super) fn service(mut self, service: &Arc<str>) -> Self {
        self.service = Some(Arc::clone(service));
        self
    }

    /// Our own identity, as the caller of an outbound connection.
    pub(super) fn own(mut self, own: &SpiffeId) -> Self {
        self.own = Some(own.clone());
        self
    }

    pub(super) fn peer(mut self, peer: &Peer, session: &Session) -> Self {
        self.peer = Some(peer.clone());
        self.tls = Some((session.version, session.kx));
        self
    }

    pub(super) fn tls(mut self, session: &Session) -> Self {
        self.peer.clone_from(&session.peer);
        self.tls = Some((session.version, session.kx));
        self
    }

    pub(super) fn from(&self) -> SocketAddr {
        self.from
    }

    pub(super) fn trace(&self) -> &TraceParent {
        &self.trace
    }

    /// Refused before a policy was asked.
    pub(super) fn refused(self, ctx: &Context, reason: &'static str, detail: &str) {
        let id = decision_id();
        self.failed(ctx, reason, detail, &id);
    }

    /// The same, with the id that the client was told.
    pub(super) fn failed(self, ctx: &Context, reason: &'static str, detail: &str, id: &Arc<str>) {
        let mut record = self.record(ctx, Arc::clone(id));
        record.decision = Some(undecided("deny", reason, &ctx.current.load()));
        record.error = Some(reason);
        record.detail = Some(Text::from(detail.to_owned()));
        ctx.tell(record);
    }

    /// Let through without a policy of ours: the other side decides, or nobody does.
    pub(super) fn passed(self, ctx: &Context, reason: &'static str, told: &Told) {
        let mut record = self.record(ctx, decision_id());
        record.decision = Some(undecided("allow", reason, &ctx.current.load()));
        ended_as(&mut record, told);
        ctx.tell(record);
    }

    /// Decided by policy.
    pub(super) fn decided(self, ctx: &Context, secured: &Secured, decision: &authz::Decision, told: &Told) {
        let mut record = self.record(ctx, decision_id());
        record.src = source(secured);
        record.tls = protection(secured);
        record.identity_state = Proven::of(secured.peer.is_some(), false);
        record.decision = Some(as_decided(decision, &ctx.current.load()));
        ended_as(&mut record, told);
        ctx.tell(record);
    }

    fn record(&self, ctx: &Context, id: Arc<str>) -> Record {
        let addr = self.from.to_string();
        let inbound = self.direction == Direction::Inbound;
        let src = match (&self.own, &self.peer) {
            (Some(own), _) => Source {
                spiffe_id: Some(Text::from(own.to_string())),
                ..Source::plain(addr)
            },
            (None, Some(peer)) if inbound => Source::proven(addr, &peer.id, peer.not_after),
            _ => Source::plain(addr),
        };
        let mut record = Record::new(Kind::Connection, self.direction, id, src);
        record.dst = match self.peer.as_ref().filter(|_| !inbound) {
            Some(peer) => Destination {
                spiffe_id: Some(Text::from(peer.id.to_string())),
                svid_not_after: Some(peer.not_after),
                ..Destination::default()
            },
            None if inbound => own_side(ctx),
            None => Destination::default(),
        };
        record.dst.addr = self.to.map(|to| Text::from(to.to_string()));
        record.dst.port = self.to.map(|to| to.port());
        if let Some(service) = &self.service {
            record.dst.service = Some(Text::from(service.to_string()));
        }
        record.trace = Some(self.trace);
        record.identity_state = Proven::of(self.peer.is_some(), false);
        record.tls = self.tls.map(|(version, kx)| Tls {
            mode: "hbone",
            version,
            kx,
            resumed: false,
        });
        record.timing = Timing {
            total: Some(self.started.elapsed()),
            ..Timing::default()
        };
        record
    }
}

fn ended_as(record: &mut Record, told: &Told) {
    record.tcp = Some(Tcp {
        bytes_in: told.bytes_in,
        bytes_out: told.bytes_out,
        close: told.close,
    });
    if let Some((label, detail)) = &told.error {
        record.error = Some(label);
        record.detail = Some(Text::from(detail.clone()));
    }
}

/// Ourselves as the destination of what comes in.
fn own_side(ctx: &Context) -> Destination {
    let own = ctx
        .current
        .load()
        .tls
        .as_ref()
        .ok()
        .map(|tls| Text::from(tls.identity().id.to_string()));
    Destination {
        service: Some(Text::from(ctx.options.service.to_string())),
        spiffe_id: own,
        ..Destination::default()
    }
}

fn source(secured: &Secured) -> Source {
    let addr = secured.src.to_string();
    secured.peer.as_ref().map_or_else(
        || Source::plain(addr.clone()),
        |peer| Source::proven(addr.clone(), &peer.id, peer.not_after),
    )
}

fn protection(secured: &Secured) -> Option<Tls> {
    let (version, kx) = secured.tls?;
    let mode = match secured.via {
        Via::Hbone => "hbone",
        Via::Mtls => "port",
        Via::ServerTls | Via::Plaintext => "public",
    };
    Some(Tls {
        mode,
        version,
        kx,
        resumed: false,
    })
}

fn undecided(verdict: &'static str, reason: &'static str, snapshot: &Snapshot) -> Decision {
    Decision {
        verdict,
        reason,
        rules: Vec::new(),
        needs: None,
        shadow: Vec::new(),
        policy_version: Text::from(snapshot.policies.version().to_owned()),
        errors: 0,
    }
}

fn as_decided(decision: &authz::Decision, snapshot: &Snapshot) -> Decision {
    let texts = |ids: &[Arc<str>]| ids.iter().map(|id| Text::from(id.to_string())).collect();
    Decision {
        verdict: if decision.verdict == Verdict::Allow {
            "allow"
        } else {
            "deny"
        },
        reason: decision.reason.label(),
        rules: texts(&decision.rules),
        needs: decision.needs.as_ref().map(|needs| Need {
            rule: Text::from(needs.rule.to_string()),
            text: Text::from(needs.text.clone()),
        }),
        shadow: texts(&decision.shadow),
        policy_version: Text::from(snapshot.policies.version().to_owned()),
        errors: decision.errors,
    }
}

/// One request, as far as it is known.
pub(super) struct RequestStory {
    record: Record,
    started: Instant,
}

impl RequestStory {
    /// A request whose head could not be read.
    pub(super) fn unread(ctx: &Context, secured: &Secured) -> Self {
        Self::new(ctx, secured, TraceParent::fresh(), Instant::now())
    }

    /// A request that was read.
    pub(super) fn of(ctx: &Context, secured: &Secured, asked: (&Head, &TraceParent, Instant)) -> Self {
        let (head, trace, started) = asked;
        let mut story = Self::new(ctx, secured, *trace, started);
        story.record.http = Some(Http {
            method: Text::from(head.method.clone()),
            route: None,
            path: Some(Text::from(head.path.clone())),
            host: Some(Text::from(head.host.clone())),
            status: None,
            proto: if head.version == Version::H10 {
                "HTTP/1.0"
            } else {
                "HTTP/1.1"
            },
            req_bytes: 0,
            resp_bytes: 0,
        });
        story
    }

    fn new(ctx: &Context, secured: &Secured, trace: TraceParent, started: Instant) -> Self {
        let mut record = Record::new(Kind::Request, Direction::Inbound, "", source(secured));
        let addr = Some(Text::from(secured.app.to_string()));
        record.dst = Destination {
            addr,
            port: Some(secured.port.port),
            ..own_side(ctx)
        };
        (record.trace, record.tls) = (Some(trace), protection(secured));
        record.identity_state = Proven::of(secured.peer.is_some(), false);
        Self { record, started }
    }

    pub(super) fn user(mut self, ctx: &Context, user: Option<&VerifiedUser>) -> Self {
        let texts = |words: &[String]| words.iter().map(|word| Text::from(word.clone())).collect();
        if let Some(user) = user {
            self.record.identity_state = Proven::of(self.record.src.spiffe_id.is_some(), true);
            self.record.user = ctx
                .users
                .name(&user.alias, &user.issuer, &user.subject)
                .map(|name| User {
                    name,
                    acr: user.acr.clone().map(Text::from),
                    amr: texts(&user.amr),
                    scopes: texts(&user.scope),
                    client_id: user.azp.clone().map(Text::from),
                });
        }
        self
    }

    pub(super) fn decision(mut self, decision: &authz::Decision, snapshot: &Snapshot) -> Self {
        self.record.decision = Some(as_decided(decision, snapshot));
        if let (Some(http), Some(route)) = (&mut self.record.http, &decision.route) {
            // A declared route stands for its paths, which may hold personal data.
            http.route = Some(Text::from(route.to_string()));
            http.path = None;
        }
        self
    }

    /// Times of the stages before the decision.
    pub(super) fn stages(mut self, token: Duration, policy: Duration) -> Self {
        self.record.timing.token = Some(token);
        self.record.timing.policy = Some(policy);
        self
    }

    /// The head was refused.
    pub(super) fn head_refused(mut self, out: Out<'_>, refusal: &Refusal, id: &Arc<str>) {
        self.record.http = Some(Http {
            method: Text::from(""),
            route: None,
            path: None,
            host: None,
            status: Some(refusal.status),
            proto: "HTTP/1.1",
            req_bytes: 0,
            resp_bytes: 0,
        });
        self.refused(out, (refusal.code, &refusal.detail), id);
    }

    /// Answered by us.
    pub(super) fn answered(mut self, out: Out<'_>, no: &No, id: &Arc<str>) {
        if let Some(http) = &mut self.record.http {
            http.status = Some(no.status);
        }
        self.refused(out, (no.code, &no.detail), id);
    }

    fn refused(mut self, out: Out<'_>, why: (&'static str, &str), id: &Arc<str>) {
        let (code, detail) = why;
        let denied = self
            .record
            .decision
            .as_ref()
            .is_some_and(|decision| decision.verdict == "deny");
        if self.record.decision.is_none() {
            self.record.decision = Some(undecided("deny", code, &out.ctx.current.load()));
        }
        if !denied {
            self.record.error = Some(code);
            self.record.detail = Some(Text::from(detail.to_owned()));
        }
        self.end(out, id);
    }

    /// Answered by the application.
    pub(super) fn exchanged(mut self, out: Out<'_>, exchange: &Exchange, id: &Arc<str>) {
        if let Some(http) = &mut self.record.http {
            http.status = exchange.status;
            http.req_bytes = exchange.request_bytes;
            http.resp_bytes = exchange.response_bytes;
        }
        self.record.timing.ttfb = exchange.ttfb;
        if let Some(failure) = &exchange.failure {
            self.record.error = Some(failure.label());
            self.record.detail = Some(Text::from(failure.to_string()));
        }
        if exchange.upgraded {
            self.record.flags.push("upgraded");
        }
        self.end(out, id);
    }

    /// Ended by us in its middle.
    pub(super) fn cut(mut self, out: Out<'_>, end: &End, id: &Arc<str>) {
        self.record.error = Some(end.label());
        if let End::Denied(decision) = end {
            self.record.decision = Some(as_decided(decision, &out.ctx.current.load()));
        }
        self.end(out, id);
    }

    fn end(mut self, out: Out<'_>, id: &Arc<str>) {
        let total = self.started.elapsed();
        self.record.request_id = Text::from(Arc::clone(id));
        self.record.timing.total = Some(total);
        out.meter.finished(&self.request_labels(), total);
        if let Some(decision) = &self.record.decision {
            out.meter.decided(&decision_labels(&self.record, decision));
        }
        out.ctx.tell(self.record);
    }

    fn request_labels(&self) -> RequestLabels {
        let http = self.record.http.as_ref();
        let label = |text: Option<&Text>| {
            text.map_or(Label::fixed(""), |text| {
                Label::from(Arc::<str>::from(text.as_str()))
            })
        };
        RequestLabels {
            method: label(http.map(|http| &http.method)),
            status: http.and_then(|http| http.status).unwrap_or(0),
            error: Label::fixed(self.record.error.unwrap_or("")),
            route: label(http.and_then(|http| http.route.as_ref())),
            proven: self.record.identity_state,
        }
    }
}

/// Where records and counts of a request go.
pub(super) struct Out<'a> {
    /// The journal is here.
    pub(super) ctx: &'a Context,
    /// The connection's meter.
    pub(super) meter: &'a mut RequestMeter,
}

/// The labels under which a decision is counted.
pub(super) fn decision_labels(record: &Record, decision: &Decision) -> DecisionLabels {
    DecisionLabels {
        verdict: decision.verdict,
        reason: decision.reason,
        rule: decision.rules.first().map_or(Label::fixed(""), |rule| {
            Label::from(Arc::<str>::from(rule.as_str()))
        }),
        direction: record.direction,
        proven: record.identity_state,
    }
}
