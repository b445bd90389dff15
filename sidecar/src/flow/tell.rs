//! What is told of a connection when it ends: what the stages learned enters, one record and its metrics
//! leave. It decides nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::ended::End;
use super::{Context, Secured, Via};
use crate::authz::{self, Subject, Verdict};
use crate::forward::{Copied, Progress};
use crate::observe::{
    Decision, DecisionLabels, Destination, Direction, Kind, Label, Made, Need, Proven, Record, Source, Tcp,
    Text, Timing, Tls, TraceParent, Would, decision_id,
};
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
        record.by_us = true;
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
        record.by_us = decision.verdict == Verdict::Deny;
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
pub(super) fn own_side(ctx: &Context) -> Destination {
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

pub(super) fn source(secured: &Secured) -> Source {
    let addr = secured.src.to_string();
    secured.peer.as_ref().map_or_else(
        || Source::plain(addr.clone()),
        |peer| Source::proven(addr.clone(), &peer.id, peer.not_after),
    )
}

pub(super) fn protection(secured: &Secured) -> Option<Tls> {
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

pub(super) fn undecided(verdict: &'static str, reason: &'static str, snapshot: &Snapshot) -> Decision {
    Decision {
        verdict,
        reason,
        rules: Vec::new(),
        needs: None,
        shadow: Vec::new(),
        would: None,
        text: None,
        audit: false,
        policy_version: Text::from(snapshot.policies.version().to_owned()),
        errors: 0,
        made: None,
    }
}

pub(super) fn as_decided(decision: &authz::Decision, snapshot: &Snapshot) -> Decision {
    let texts = |ids: &[Arc<str>]| ids.iter().map(|id| Text::from(id.to_string())).collect();
    Decision {
        verdict: word(decision.verdict),
        reason: decision.reason.label(),
        rules: texts(&decision.rules),
        needs: decision.needs.as_ref().map(|needs| Need {
            rule: Text::from(needs.rule.to_string()),
            text: Text::from(needs.text.clone()),
        }),
        shadow: texts(&decision.shadow),
        would: decision.would.as_deref().map(|would| Would {
            verdict: word(would.verdict),
            reason: would.reason.label(),
            rules: texts(&would.rules),
            policy_version: Text::from(Arc::clone(&would.version)),
        }),
        text: decision.text.clone().map(Text::from),
        audit: decision.audit,
        policy_version: Text::from(snapshot.policies.version().to_owned()),
        errors: decision.errors,
        made: decision.inputs.as_ref().map(|inputs| Made {
            inputs: Arc::clone(inputs),
            policies: Arc::downgrade(&snapshot.policies),
        }),
    }
}

/// How a record shows the user, for what else it holds.
pub(super) fn subject(record: &Record) -> Subject<'_> {
    match record.user.as_ref().map(|user| &user.name) {
        Some(name) if name.sub.is_some() => Subject::Plain,
        Some(name) => name
            .hash
            .as_ref()
            .map_or(Subject::Hidden, |hash| Subject::Hash(hash.as_str())),
        None => Subject::Hidden,
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    }
}

/// The labels under which is counted what policies in shadow, or the shadow set, would have answered: at most one of each.
pub(super) fn shadow_labels(record: &Record, decision: &Decision) -> [Option<DecisionLabels>; 2] {
    let counted = |would_allow: bool, reason, rule: Option<&Text>| DecisionLabels {
        verdict: if would_allow { "would_allow" } else { "would_deny" },
        reason,
        rule: rule.map_or(Label::fixed(""), |rule| {
            Label::from(Arc::<str>::from(rule.as_str()))
        }),
        direction: record.direction,
        proven: record.identity_state,
    };
    let of_a_policy = decision.shadow.first();
    let of_the_set = decision.would.as_ref();
    [
        of_a_policy.map(|rule| counted(decision.verdict == "deny", "shadow_policy", Some(rule))),
        of_the_set.map(|would| counted(would.verdict == "allow", would.reason, would.rules.first())),
    ]
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
