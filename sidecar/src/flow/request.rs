//! One HTTP connection, request by request: read once, the user's token checked, decided, forwarded, recorded. Nothing of
//! a request reaches the application before its decision allows it, and what reaches it is what was decided on.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::ended::{Bounds, ended};
use super::inbound::principal;
use super::tell::{Out, RequestStory, millis};
use super::{Abort, Context, Secured, time_until};
use crate::authn::{ClaimValue, Rejection, VerifiedUser};
use crate::authz::{self, Decision, Facts, HttpFacts, Reason, Verdict, What};
use crate::forward::http1::{
    Exchange, HeadFailure, HeadTimes, Outgoing, Times, discard_body, exchange, finish, read_head,
};
use crate::forward::{Buffered, ConnectFailure, ErrorAnswer, Progress, abort, connect_app, error_response};
use crate::observe::{ConnectionMeter, Direction, RequestMeter, TraceParent, decision_id};
use crate::request::{Bearer, Head};
use crate::snapshot::Snapshot;

/// The header that tells the application who the user is, as proven: JSON with `iss`, `sub` and `roles`. Whatever came
/// under its name from outside was stripped.
const USER_HEADER: &str = "x-hopguard-user";
/// The header that tells the application who the calling workload is, as Envoy writes it.
const PEER_HEADER: &str = "x-forwarded-client-cert";

/// One HTTP connection: the client, the application's kept connection, and the meters.
struct Connection<'c, S> {
    ctx: &'c Arc<Context>,
    secured: &'c Secured,
    client: Buffered<S>,
    upstream: Option<Buffered<TcpStream>>,
    meter: RequestMeter,
}

/// How an answer leaves the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It can carry another request.
    Keep,
    /// It ends in order.
    Close,
    /// It ends so that nobody takes what was sent for whole.
    Abort,
}

/// Serves the connection until it ends.
pub(super) async fn serve<S>(ctx: &Arc<Context>, secured: &Secured, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Abort,
{
    let open = ctx.open(Direction::Inbound, "http", secured.proven());
    let src = ctx.metrics.workload(secured.peer.as_ref().map(|peer| &peer.id));
    let own = ctx
        .current
        .load()
        .tls
        .as_ref()
        .ok()
        .map(|tls| tls.identity().id.clone());
    let meter = ctx.metrics.requests(src, ctx.metrics.workload(own.as_ref()));
    let mut connection = Connection {
        ctx,
        secured,
        client: Buffered::new(stream),
        upstream: None,
        meter,
    };
    let then = loop {
        let Some(head) = connection.next_head().await else {
            break Then::Close;
        };
        let asked = Asked::new(secured, head);
        match connection.one(&asked, &open).await {
            Then::Keep => {}
            then => break then,
        }
    };
    let Connection {
        mut client, upstream, ..
    } = connection;
    if then == Then::Abort {
        client.get_ref().abort();
        if let Some(upstream) = upstream {
            abort(upstream.get_ref());
        }
        return;
    }
    finish(&mut client, LINGER_BYTES, LINGER_TIME).await;
}

/// What a client may still send after its last answer, so that closing does not destroy the answer on its way.
const LINGER_BYTES: u64 = 256 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(1);
/// What of a refused request's body is read, so that the connection can carry the next one.
const DISCARD_BYTES: u64 = 64 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(1);

impl<S> Connection<'_, S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    /// The next request's head; `None` when the connection is over, which a refused head makes it.
    async fn next_head(&mut self) -> Option<Head> {
        let (ctx, secured) = (self.ctx, self.secured);
        let idle = ctx.options.idle_timeout;
        if self.client.data().is_empty() {
            self.client.release();
            // Only between requests: one that has begun is answered.
            tokio::select! {
                biased;
                filled = self.client.fill() => if !matches!(filled, Ok(1..)) {
                    return None;
                },
                () = tokio::time::sleep(idle) => return None,
                () = idle_end(ctx, secured) => return None,
            }
        }
        let times = HeadTimes {
            idle,
            head: ctx.options.head_timeout,
        };
        let failure = match read_head(&mut self.client, &ctx.options.limits, times).await {
            Ok(head) => return Some(head),
            Err(failure) => failure,
        };
        let HeadFailure::Refused(refusal) = failure else {
            return None;
        };
        let id = decision_id();
        let no = No {
            status: refusal.status,
            code: refusal.code,
            detail: refusal.detail.clone(),
            extra: vec![],
        };
        self.say(&no, &id, true, false).await;
        RequestStory::unread(ctx, secured).head_refused(self.out(), &refusal, &id);
        None
    }

    /// One request, from decision to record.
    async fn one(&mut self, asked: &Asked<'_>, open: &ConnectionMeter) -> Then {
        let ctx = self.ctx;
        let story = RequestStory::of(ctx, asked.secured, (&asked.head, &asked.trace, asked.started));
        let snapshot = ctx.current.load();
        let read = match read(ctx, asked, &snapshot).await {
            Ok(read) => read,
            Err(no) => return self.refuse(asked, story, no).await,
        };
        let token = asked.started.elapsed();
        let decision = snapshot
            .policies
            .decide(&asked.facts(asked.at, read.user.as_ref(), &read.headers));
        let policy = asked.started.elapsed().saturating_sub(token);
        let story = story
            .user(ctx, read.verified.as_deref())
            .decision(&decision, &snapshot)
            .stages(token, policy);
        if decision.verdict == Verdict::Deny {
            let no = denial(&decision, read.user.is_some());
            return self.refuse(asked, story, no).await;
        }
        let allowed = Allowed { read, snapshot };
        match self.forwarded(asked, &allowed).await {
            Ok(exchange) => {
                open.carried(exchange.request_bytes, exchange.response_bytes);
                self.after(asked, story, exchange).await
            }
            Err(Unforwarded::Cut(end)) => {
                story.cut(self.out(), &end, &asked.id);
                Then::Abort
            }
            Err(Unforwarded::NoApp(error)) => {
                let detail = format!("the application does not answer: {error}");
                let no = No {
                    status: ConnectFailure::STATUS,
                    code: error.label(),
                    detail,
                    extra: vec![],
                };
                self.refuse(asked, story, no).await
            }
        }
    }

    /// What follows an exchange.
    async fn after(&mut self, asked: &Asked<'_>, story: RequestStory, exchange: Exchange) -> Then {
        if !exchange.upstream_reusable
            && let Some(upstream) = self.upstream.take()
            && exchange.failure.is_some()
        {
            // A body that broke off must not look whole to the application.
            abort(upstream.get_ref());
        }
        if let (Some(failure), false) = (&exchange.failure, exchange.response_started) {
            let (status, code, detail) = (failure.status(), failure.label(), failure.to_string());
            let Some(status) = status else {
                story.exchanged(self.out(), &exchange, &asked.id);
                return Then::Abort;
            };
            let no = No {
                status,
                code,
                detail,
                extra: vec![],
            };
            return self.refuse(asked, story, no).await;
        }
        story.exchanged(self.out(), &exchange, &asked.id);
        match exchange {
            Exchange { failure: Some(_), .. } => Then::Abort,
            Exchange {
                client_reusable: true,
                upgraded: false,
                ..
            } => Then::Keep,
            _ => Then::Close,
        }
    }

    async fn forwarded(&mut self, asked: &Asked<'_>, allowed: &Allowed) -> Result<Exchange, Unforwarded> {
        let (ctx, secured) = (self.ctx, self.secured);
        let bytes = rewritten(asked, allowed);
        let again = |snapshot: &Snapshot| {
            snapshot.policies.decide(&asked.facts(
                SystemTime::now(),
                allowed.read.user.as_ref(),
                &allowed.read.headers,
            ))
        };
        let token = allowed.read.verified.as_ref().map(|user| at_seconds(user.exp));
        let bounds = Bounds {
            decided: allowed.snapshot.generation,
            hard: secured.validity.hard,
            token,
        };
        let close = || ctx.drain.has_begun() || SystemTime::now() >= secured.validity.soft;
        let progress = Progress::default();
        let exchanging = async {
            loop {
                let kept = self.upstream.take().and_then(still_open);
                let reused = kept.is_some();
                let app = match kept {
                    Some(app) => app,
                    None => Buffered::new(
                        connect_app(secured.app, &ctx.options.dial)
                            .await
                            .map_err(Unforwarded::NoApp)?,
                    ),
                };
                let app = self.upstream.insert(app);
                let outgoing = Outgoing {
                    head: &asked.head,
                    bytes: bytes.clone(),
                    response_add: &[],
                    close: &close,
                    reused,
                    limits: &ctx.options.limits,
                    times: Times {
                        response: None,
                        body_idle: ctx.options.idle_timeout,
                        upgraded_idle: ctx.options.opaque_idle,
                    },
                    progress: &progress,
                };
                let done = exchange(&mut self.client, app, outgoing).await;
                if reused && done.retryable {
                    // A kept connection that the application had closed meanwhile: it processed nothing of this request.
                    self.upstream = None;
                    continue;
                }
                return Ok(done);
            }
        };
        tokio::select! {
            done = exchanging => done,
            end = ended(ctx, bounds, again) => Err(Unforwarded::Cut(end)),
        }
    }

    /// Where records and counts of a request go.
    fn out(&mut self) -> Out<'_> {
        Out {
            ctx: self.ctx,
            meter: &mut self.meter,
        }
    }

    /// Answers for the application, with a record.
    async fn refuse(&mut self, asked: &Asked<'_>, story: RequestStory, no: No) -> Then {
        let ending = self.ctx.drain.has_begun() || SystemTime::now() >= asked.secured.validity.soft;
        // A body that is left unread would be taken for the next request.
        let framing = asked.head.framing;
        let clean = asked.head.keep_alive
            && !ending
            && !asked.head.expect_continue
            && discard_body(&mut self.client, framing, DISCARD_BYTES, DISCARD_TIME).await;
        let said = self
            .say(&no, &asked.id, !clean, asked.head.method == "HEAD")
            .await;
        story.answered(self.out(), &no, &asked.id);
        if said && clean { Then::Keep } else { Then::Close }
    }

    /// Writes an answer of ours.
    async fn say(&mut self, no: &No, id: &str, close: bool, to_head: bool) -> bool {
        let mut headers: Vec<(&str, &str)> = vec![("x-hopguard-id", id)];
        headers.extend(no.extra.iter().map(|(name, value)| (*name, value.as_str())));
        let bytes = error_response(&ErrorAnswer {
            status: no.status,
            code: no.code,
            detail: &no.detail,
            id: Some(id),
            headers: &headers,
            close,
            to_head,
        });
        let telling = async {
            self.client.get_mut().write_all(&bytes).await?;
            self.client.get_mut().flush().await
        };
        matches!(
            tokio::time::timeout(Duration::from_secs(5), telling).await,
            Ok(Ok(()))
        )
    }
}

/// Resolves when an idle connection is to be closed.
async fn idle_end(ctx: &Context, secured: &Secured) {
    tokio::select! {
        () = tokio::time::sleep(time_until(secured.validity.idle)) => {}
        () = ctx.drain.beginning() => {}
    }
}

/// A kept connection of the application, unless it has closed it or said something unasked.
fn still_open(mut app: Buffered<TcpStream>) -> Option<Buffered<TcpStream>> {
    app.is_quiet().then_some(app)
}

/// One request and what is known of it so far.
struct Asked<'a> {
    secured: &'a Secured,
    head: Head,
    started: Instant,
    at: SystemTime,
    trace: TraceParent,
    id: Arc<str>,
}

impl<'a> Asked<'a> {
    fn new(secured: &'a Secured, head: Head) -> Self {
        let trace = TraceParent::continued(head.header("traceparent"));
        Self {
            secured,
            head,
            started: Instant::now(),
            at: SystemTime::now(),
            trace,
            id: decision_id(),
        }
    }

    fn facts<'b>(
        &'b self,
        at: SystemTime,
        user: Option<&'b authz::User>,
        headers: &'b [(String, Vec<String>)],
    ) -> Facts<'b> {
        Facts {
            principal: principal(self.secured),
            port: self.secured.port.port,
            tls: self.secured.tls.is_some(),
            src_ip: self.secured.src.ip(),
            now_millis: millis(at),
            what: What::Http(HttpFacts {
                method: &self.head.method,
                path: &self.head.path,
                host: &self.head.host,
                headers,
                user,
            }),
        }
    }
}

/// A request as far as it was read for the decision.
struct Read {
    verified: Option<Arc<VerifiedUser>>,
    user: Option<authz::User>,
    headers: Vec<(String, Vec<String>)>,
}

/// What a decision allowed, and on what.
struct Allowed {
    read: Read,
    snapshot: Arc<Snapshot>,
}

/// A request that is answered by us.
pub(super) struct No {
    /// The status.
    pub(super) status: u16,
    /// A stable label.
    pub(super) code: &'static str,
    /// A sentence for people.
    pub(super) detail: String,
    extra: Vec<(&'static str, String)>,
}

async fn read(ctx: &Context, asked: &Asked<'_>, snapshot: &Snapshot) -> Result<Read, No> {
    if !fronts(ctx, asked, snapshot) {
        let detail = "this sidecar does not stand before a service of that host".to_owned();
        return Err(No {
            status: 404,
            code: "unknown_host",
            detail,
            extra: vec![],
        });
    }
    let headers = asked.head.declared(&snapshot.declared).map_err(|refusal| No {
        status: refusal.status,
        code: refusal.code,
        detail: refusal.detail,
        extra: vec![],
    })?;
    let verified = match asked.head.bearer() {
        Bearer::Absent => None,
        Bearer::Bad(reason) => return Err(bad_token(reason, reason)),
        Bearer::Token(token) => Some(ctx.authn.verify(token, asked.at).await.map_err(rejected)?),
    };
    let user = verified.as_deref().map(as_user);
    Ok(Read {
        verified,
        user,
        headers,
    })
}

/// Whether the request is for the service that this sidecar stands before, by one of its names or addresses. Without a
/// host (HTTP/1.0) there is nothing that could be meant instead.
fn fronts(ctx: &Context, asked: &Asked<'_>, snapshot: &Snapshot) -> bool {
    let host = asked.head.host.as_str();
    if host.is_empty() {
        return true;
    }
    let literal = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    if let Ok(address) = literal.parse::<std::net::IpAddr>() {
        return address.to_canonical() == asked.secured.app.ip()
            || ctx
                .services
                .table()
                .addresses_of(&ctx.options.service)
                .contains(&address.to_canonical());
    }
    snapshot
        .mesh
        .service(&ctx.options.service)
        .is_some_and(|service| service.hosts.iter().any(|known| known == host))
}

fn rejected(rejection: Rejection) -> No {
    match rejection {
        Rejection::Invalid { reason, detail } => bad_token(reason, &detail),
        Rejection::Unavailable { alias, detail } => No {
            status: 503,
            code: "issuer_unavailable",
            detail: format!("the keys of issuer {alias} are not known yet: {detail}"),
            extra: vec![("retry-after", "1".to_owned())],
        },
    }
}

/// RFC 6750 section 3.
fn bad_token(reason: &'static str, detail: &str) -> No {
    let clean: String = detail
        .chars()
        .filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\') || *c == ' ')
        .collect();
    let challenge =
        format!("Bearer realm=\"hopguard\", error=\"invalid_token\", error_description=\"{clean}\"");
    No {
        status: 401,
        code: reason,
        detail: detail.to_owned(),
        extra: vec![("www-authenticate", challenge)],
    }
}

fn denial(decision: &Decision, has_user: bool) -> No {
    if decision.user_would_help && !has_user {
        let extra = vec![("www-authenticate", "Bearer realm=\"hopguard\"".to_owned())];
        let detail = "a user's token is needed here".to_owned();
        return No {
            status: 401,
            code: Reason::UserRequired.label(),
            detail,
            extra,
        };
    }
    No {
        status: 403,
        code: decision.reason.label(),
        detail: "the policy does not allow this".to_owned(),
        extra: vec![],
    }
}

enum Unforwarded {
    Cut(super::ended::End),
    NoApp(ConnectFailure),
}

/// The head as the application gets it: identity headers from outside stripped, what was proven written.
fn rewritten(asked: &Asked<'_>, allowed: &Allowed) -> Vec<u8> {
    let mut add: Vec<(&str, String)> = vec![("traceparent", asked.trace.to_string())];
    if let (Some(peer), Ok(tls)) = (&asked.secured.peer, &allowed.snapshot.tls) {
        let value = format!(
            "By={};Hash={};URI={}",
            tls.identity().id,
            hex::encode(peer.fingerprint),
            peer.id
        );
        add.push((PEER_HEADER, value));
    }
    if let Some(user) = &allowed.read.verified {
        add.push((USER_HEADER, user_header(user)));
    }
    add.push(("x-forwarded-for", asked.secured.src.ip().to_string()));
    add.push((
        "x-forwarded-proto",
        if asked.secured.tls.is_some() {
            "https"
        } else {
            "http"
        }
        .to_owned(),
    ));
    let add: Vec<(&str, &str)> = add.iter().map(|(name, value)| (*name, value.as_str())).collect();
    asked.head.forward_bytes(&add)
}

/// JSON in visible ASCII: what is not is written as `\u` escapes, so that no value can end the header.
fn user_header(user: &VerifiedUser) -> String {
    let json =
        serde_json::json!({"iss": &*user.issuer, "sub": user.subject, "roles": user.roles}).to_string();
    let mut ascii = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() && !c.is_ascii_control() {
            ascii.push(c);
        } else {
            let mut units = [0u16; 2];
            for unit in c.encode_utf16(&mut units) {
                ascii.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    ascii
}

fn at_seconds(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// The user as policies see it.
fn as_user(user: &VerifiedUser) -> authz::User {
    authz::User {
        alias: user.alias.to_string(),
        issuer: user.issuer.to_string(),
        subject: user.subject.clone(),
        audience: user.audience.clone(),
        scope: user.scope.clone(),
        roles: user.roles.clone(),
        azp: user.azp.clone(),
        acr: user.acr.clone(),
        amr: user.amr.clone(),
        auth_time: user.auth_time,
        exp: user.exp,
        claims: user
            .claims
            .iter()
            .map(|(name, value)| (name.clone(), as_claim(value)))
            .collect(),
    }
}

fn as_claim(value: &ClaimValue) -> authz::ClaimValue {
    match value {
        ClaimValue::String(text) => authz::ClaimValue::String(text.clone()),
        ClaimValue::Strings(texts) => authz::ClaimValue::Strings(texts.clone()),
        ClaimValue::Long(number) => authz::ClaimValue::Long(*number),
        ClaimValue::Bool(truth) => authz::ClaimValue::Bool(*truth),
    }
}
