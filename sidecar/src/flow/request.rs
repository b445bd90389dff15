//! One HTTP connection, request by request: read once, the user's token checked, decided, forwarded, recorded. Nothing of
//! a request reaches the application before its decision allows it, and what reaches it is what was decided on.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::ended::{Bounds, ended};
use super::inbound::principal;
use super::tell::{RequestStory, denial_id, millis};
use super::{Context, Secured, time_until};
use crate::authn::{ClaimValue, Rejection, VerifiedUser};
use crate::authz::{self, Decision, Facts, HttpFacts, Reason, Verdict, What};
use crate::forward::{Buffered, Exchange, Outgoing, connect_app, error_response, exchange};
use crate::observe::TraceParent;
use crate::request::{Bearer, Framing, Head, Refusal, parse_head};
use crate::snapshot::Snapshot;

/// The header that tells the application who the user is, as proven: JSON with `iss`, `sub` and `roles`. Whatever came
/// under its name from outside was stripped.
const USER_HEADER: &str = "x-hopguard-user";
/// The header that tells the application who the calling workload is, as Envoy writes it.
const PEER_HEADER: &str = "x-forwarded-client-cert";

/// Serves the connection until it ends.
pub(super) async fn serve<S>(ctx: &Arc<Context>, secured: &Secured, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let _open = ctx.metrics.open("inbound", "http");
    let mut client = Buffered::new(stream);
    let mut upstream = None;
    while let Some(head) = next_head(ctx, secured, &mut client).await {
        let asked = Asked::new(ctx, secured, head);
        if !one(ctx, &asked, &mut client, &mut upstream).await {
            break;
        }
    }
    let _closing = tokio::time::timeout(Duration::from_secs(1), client.get_mut().shutdown()).await;
}

/// The next request's head; `None` when the connection is over, which a refused head makes it.
async fn next_head<S>(ctx: &Arc<Context>, secured: &Secured, client: &mut Buffered<S>) -> Option<Head>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    if client.buffer().is_empty() && !first_byte(ctx, secured, client).await {
        return None;
    }
    let reading = async {
        loop {
            match parse_head(client.buffer(), &ctx.options.limits) {
                Ok(Some(head)) => {
                    client.consume(head.len);
                    return Ok(Some(head));
                }
                Ok(None) => {}
                Err(refusal) => return Err(refusal),
            }
            // Closed in the middle of a head, or broken: there is nobody to answer.
            if !matches!(client.fill().await, Ok(count) if count > 0) {
                return Ok(None);
            }
        }
    };
    let refusal = match tokio::time::timeout(ctx.options.head_timeout, reading).await {
        Ok(Ok(head)) => return head,
        Ok(Err(refusal)) => refusal,
        Err(_) => Refusal { status: 408, code: "head_timeout", detail: "the request's head did not come in time".into() },
    };
    let story = RequestStory::unread(secured);
    let id = denial_id();
    say(client, &Answer { status: refusal.status, code: refusal.code, detail: &refusal.detail, id: &id, extra: vec![], close: true })
        .await;
    story.refused(ctx, &refusal, &id);
    None
}

/// Waits for a request to begin; `false` when the connection ends instead.
async fn first_byte<S>(ctx: &Context, secured: &Secured, client: &mut Buffered<S>) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    tokio::select! {
        filled = client.fill() => matches!(filled, Ok(count) if count > 0),
        () = tokio::time::sleep(ctx.options.idle_timeout) => false,
        () = tokio::time::sleep(time_until(secured.validity.idle)) => false,
        () = ctx.drain.beginning() => false,
    }
}

/// One request and what is known of it so far.
struct Asked<'a> {
    secured: &'a Secured,
    head: Head,
    started: Instant,
    at: SystemTime,
    trace: TraceParent,
    id: String,
}

impl<'a> Asked<'a> {
    fn new(_ctx: &Context, secured: &'a Secured, head: Head) -> Self {
        let trace = TraceParent::continued(head.header("traceparent").next());
        Self { secured, head, started: Instant::now(), at: SystemTime::now(), trace, id: denial_id() }
    }

    fn facts<'b>(&'b self, at: SystemTime, user: Option<&'b authz::User>, headers: &'b [(String, Vec<String>)]) -> Facts<'b> {
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

/// One request; whether the connection can carry another.
async fn one<S>(ctx: &Arc<Context>, asked: &Asked<'_>, client: &mut Buffered<S>, upstream: &mut Option<Buffered<TcpStream>>) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let story = RequestStory::of(asked.secured, &asked.head, &asked.trace, asked.started);
    let snapshot = ctx.current.load();
    let read = match read(ctx, asked, &snapshot).await {
        Ok(read) => read,
        Err(no) => return refuse(ctx, asked, client, story, no).await,
    };
    let decision = snapshot.policies.decide(&asked.facts(asked.at, read.user.as_ref(), &read.headers));
    let story = story.user(read.verified.as_deref()).decision(&decision, &snapshot);
    if decision.verdict == Verdict::Deny {
        let no = denial(&decision, read.user.is_some());
        return refuse(ctx, asked, client, story, no).await;
    }
    let allowed = Allowed { read, snapshot };
    match forwarded(ctx, asked, &allowed, client, upstream).await {
        Ok(exchange) => {
            let keep = exchange.client_reusable && !exchange.upgraded;
            if !exchange.upstream_reusable {
                *upstream = None;
            }
            story.exchanged(ctx, &exchange, &asked.id);
            keep
        }
        Err(Unforwarded::Cut(end)) => {
            *upstream = None;
            story.cut(ctx, &end, &asked.id);
            false
        }
        Err(Unforwarded::NoApp(error)) => {
            let no = No { status: 503, code: "app_unreachable", detail: format!("the application does not answer: {error}"), extra: vec![] };
            refuse(ctx, asked, client, story, no).await
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
struct No {
    status: u16,
    code: &'static str,
    detail: String,
    extra: Vec<(&'static str, String)>,
}

async fn read(ctx: &Context, asked: &Asked<'_>, snapshot: &Snapshot) -> Result<Read, No> {
    if !snapshot.mesh.fronts(&ctx.options.service, &asked.head.host) {
        let detail = "this sidecar does not stand before a service of that host".to_owned();
        return Err(No { status: 404, code: "unknown_host", detail, extra: vec![] });
    }
    let headers = asked.head.declared(&snapshot.mesh.declared_headers).map_err(|refusal| No {
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
    Ok(Read { verified, user, headers })
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
    let clean: String = detail.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\') || *c == ' ').collect();
    let challenge = format!("Bearer realm=\"hopguard\", error=\"invalid_token\", error_description=\"{clean}\"");
    No { status: 401, code: reason, detail: detail.to_owned(), extra: vec![("www-authenticate", challenge)] }
}

fn denial(decision: &Decision, has_user: bool) -> No {
    if decision.user_would_help && !has_user {
        let extra = vec![("www-authenticate", "Bearer realm=\"hopguard\"".to_owned())];
        let detail = "a user's token is needed here".to_owned();
        return No { status: 401, code: Reason::UserRequired.label(), detail, extra };
    }
    No { status: 403, code: decision.reason.label(), detail: "the policy does not allow this".to_owned(), extra: vec![] }
}

enum Unforwarded {
    Cut(super::ended::End),
    NoApp(std::io::Error),
}

async fn forwarded<S>(
    ctx: &Arc<Context>,
    asked: &Asked<'_>,
    allowed: &Allowed,
    client: &mut Buffered<S>,
    upstream: &mut Option<Buffered<TcpStream>>,
) -> Result<Exchange, Unforwarded>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let bytes = rewritten(asked, allowed);
    let again = |snapshot: &Snapshot| {
        snapshot.policies.decide(&asked.facts(SystemTime::now(), allowed.read.user.as_ref(), &allowed.read.headers))
    };
    let token_ends = allowed.read.verified.as_ref().map(|user| at_seconds(user.exp));
    let secured = asked.secured;
    let bounds = Bounds { decided: allowed.snapshot.generation, hard: secured.validity.hard, token: token_ends };
    let exchanging = async {
        loop {
            let reused = upstream.is_some();
            let app = match upstream {
                Some(app) => app,
                None => upstream.insert(Buffered::new(
                    connect_app(secured.app, &ctx.options.dial).await.map_err(Unforwarded::NoApp)?,
                )),
            };
            let outgoing = Outgoing {
                head: &asked.head,
                bytes: bytes.clone(),
                response_add: &[],
                close: &|| ctx.drain.has_begun() || SystemTime::now() >= secured.validity.soft,
                idle: ctx.options.idle_timeout,
                limits: &ctx.options.limits,
            };
            let done = exchange(client, app, outgoing).await;
            if reused && done.retryable {
                // A kept connection that the application had closed meanwhile: nothing of this request was processed.
                *upstream = None;
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

/// The head as the application gets it: identity headers from outside stripped, what was proven written.
fn rewritten(asked: &Asked<'_>, allowed: &Allowed) -> Vec<u8> {
    let mut add: Vec<(&str, String)> = vec![("traceparent", asked.trace.to_string())];
    if let (Some(peer), Ok(tls)) = (&asked.secured.peer, &allowed.snapshot.tls) {
        let value = format!("By={};Hash={};URI={}", tls.identity().id, hex::encode(peer.fingerprint), peer.id);
        add.push((PEER_HEADER, value));
    }
    if let Some(user) = &allowed.read.verified {
        add.push((USER_HEADER, user_header(user)));
    }
    add.push(("x-forwarded-for", asked.secured.src.ip().to_string()));
    add.push(("x-forwarded-proto", if asked.secured.tls.is_some() { "https" } else { "http" }.to_owned()));
    let add: Vec<(&str, &str)> = add.iter().map(|(name, value)| (*name, value.as_str())).collect();
    asked.head.forward_bytes(&add)
}

/// JSON in visible ASCII: what is not is written as `\u` escapes, so that no value can end the header.
fn user_header(user: &VerifiedUser) -> String {
    let json = serde_json::json!({"iss": &*user.issuer, "sub": user.subject, "roles": user.roles}).to_string();
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

/// Answers for the application, with a record; whether the connection can carry another request.
async fn refuse<S>(ctx: &Context, asked: &Asked<'_>, client: &mut Buffered<S>, story: RequestStory, no: No) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    // A body that nobody will read would be taken for the next request.
    let close = !asked.head.keep_alive
        || asked.head.framing != Framing::None
        || ctx.drain.has_begun()
        || SystemTime::now() >= asked.secured.validity.soft;
    let answer =
        Answer { status: no.status, code: no.code, detail: &no.detail, id: &asked.id, extra: no.extra.clone(), close };
    let said = say(client, &answer).await;
    story.answered(ctx, no.status, no.code, &no.detail, &asked.id);
    said && !close
}

struct Answer<'a> {
    status: u16,
    code: &'a str,
    detail: &'a str,
    id: &'a str,
    extra: Vec<(&'static str, String)>,
    close: bool,
}

/// Writes an answer of ours; before closing, takes what the client still sends, so that it can read the answer.
async fn say<S>(client: &mut Buffered<S>, answer: &Answer<'_>) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut headers: Vec<(&str, &str)> = vec![("x-hopguard-id", answer.id)];
    headers.extend(answer.extra.iter().map(|(name, value)| (*name, value.as_str())));
    let bytes = error_response(answer.status, answer.code, answer.detail, &headers, answer.close);
    let telling = async {
        let stream = client.get_mut();
        stream.write_all(&bytes).await?;
        stream.flush().await?;
        if answer.close {
            stream.shutdown().await?;
            client.discard(256 * 1024).await?;
        }
        Ok::<(), std::io::Error>(())
    };
    matches!(tokio::time::timeout(Duration::from_secs(2), telling).await, Ok(Ok(())))
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
        claims: user.claims.iter().map(|(name, value)| (name.clone(), as_claim(value))).collect(),
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
