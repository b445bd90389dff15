//! What is told of a request when it ends: what the stages learned enters, one record and its metrics leave. It decides
//! nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::caller::No;
use super::ended::End;
use super::tell::{as_decided, decision_labels, own_side, protection, source, undecided};
use super::{Context, Secured};
use crate::authn::VerifiedUser;
use crate::authz;
use crate::forward::Progress;
use crate::forward::http1::Exchange;
use crate::observe::{
    Destination, Direction, Http, Kind, Label, Proven, Record, RequestLabels, RequestMeter, Text,
    TraceParent, User,
};
use crate::request::{Glimpse, Head, Refusal, Version};
use crate::snapshot::Snapshot;

/// One request, as far as it is known.
pub(super) struct RequestStory {
    record: Record,
    started: Instant,
}

impl RequestStory {
    /// A request whose head was refused.
    pub(super) fn unread(ctx: &Context, secured: &Secured, seen: Glimpse) -> Self {
        let mut story = Self::new(ctx, secured, TraceParent::fresh(), Instant::now());
        story.record.http = Some(http(seen.method, seen.path, seen.version));
        story
    }

    /// A request that was read.
    pub(super) fn of(ctx: &Context, secured: &Secured, asked: (&Head, &TraceParent, Instant)) -> Self {
        let (head, trace, started) = asked;
        let mut story = Self::new(ctx, secured, *trace, started);
        let http = http(head.method.clone(), Some(head.path.clone()), head.version);
        story.record.http = Some(Http {
            host: Some(Text::from(head.host.clone())),
            ..http
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
            let named = |subject: &String| ctx.users.name(&user.alias, &user.issuer, subject);
            self.record.identity_state = Proven::of(self.record.src.spiffe_id.is_some(), true);
            self.record.user = named(&user.subject).map(|name| User {
                act: user.actors.iter().filter_map(named).collect(),
                name,
                acr: user.acr.clone().map(Text::from),
                amr: texts(&user.amr),
                scopes: texts(&user.scope),
                client_id: user.azp.clone().map(Text::from),
            });
        }
        self
    }

    /// Whom a token names that is not its sender's: shown as a user is, and counted as none.
    pub(super) fn named(self, ctx: &Context, user: Option<&VerifiedUser>) -> Self {
        let proven = self.record.identity_state;
        let mut story = self.user(ctx, user);
        story.record.identity_state = proven;
        if user.is_some() {
            story.record.flags.push("user_not_bound");
        }
        story
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
        if let Some(http) = &mut self.record.http {
            http.status = Some(refusal.status);
        }
        self.refused(out, (refusal.code, &refusal.detail), id);
    }

    /// A gRPC call, which is told this beside the status of HTTP that it stands for.
    pub(super) fn by_grpc(mut self, status: Option<u16>) -> Self {
        if let Some(http) = &mut self.record.http {
            http.grpc_status = status;
        }
        self
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
        self.record.by_us = true;
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

    /// Ended by us in its middle; what went on until then is told as of any other.
    pub(super) fn cut(mut self, out: Out<'_>, (end, progress): (&End, &Progress), id: &Arc<str>) {
        self.record.error = Some(end.label());
        self.record.by_us = true;
        let answer = progress.answer();
        if let Some(http) = &mut self.record.http {
            http.status = answer.map(|(status, _)| status);
            (http.req_bytes, http.resp_bytes) = progress.counts();
        }
        self.record.timing.ttfb = answer.map(|(_, ttfb)| ttfb);
        if let Some((101, _)) = answer {
            self.record.flags.push("upgraded");
        }
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

fn http(method: String, path: Option<String>, version: Version) -> Http {
    Http {
        method: Text::from(method),
        route: None,
        path: path.map(Text::from),
        host: None,
        status: None,
        grpc_status: None,
        proto: match version {
            Version::H10 => "HTTP/1.0",
            Version::H11 => "HTTP/1.1",
            Version::H2 => "HTTP/2",
        },
        req_bytes: 0,
        resp_bytes: 0,
    }
}

/// Where records and counts of a request go.
pub(super) struct Out<'a> {
    /// The journal is here.
    pub(super) ctx: &'a Context,
    /// The connection's meter.
    pub(super) meter: &'a mut RequestMeter,
}
